// Dot products of a few rows with four rows at a time: what both matrix products and attention scores are made of.
#pragma once

#include "vectors.h"

// What to fetch from memory while a tile is computed: `count` rows that will be needed next, in their order.
template <typename Weight>
struct Ahead {
    const Weight* rows = nullptr;
    int count = 0;
};

// out[r][c] = row r of x . row c of w. Each product is the same operations in the same order whatever ROWS is, so that a
// result does not depend on its neighbours.
template <int ROWS, typename Weight>
__attribute__((noinline)) void tile(const float* x, int64_t x_stride, const Weight* const w[TILE_COLUMNS], int length, Ahead<Weight> ahead, Four out[ROWS]) {
    Lanes total[ROWS][TILE_COLUMNS] = {};
    int i = 0;
    for (; i + LANES <= length; i += LANES) {
        for (int c = 0; c < ahead.count; c++) fetch(ahead.rows + i * ahead.count + c * LANES);
        Lanes column[TILE_COLUMNS];
#pragma GCC unroll 4
        for (int c = 0; c < TILE_COLUMNS; c++) column[c] = hold(load(w[c] + i));
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            const Lanes row = hold(load(x + r * x_stride + i));
#pragma GCC unroll 4
            for (int c = 0; c < TILE_COLUMNS; c++) total[r][c] = multiply_add(row, column[c], total[r][c]);
        }
    }
    if (i < length) {
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            const Lanes row = load_some(x + r * x_stride + i, length - i);
#pragma GCC unroll 4
            for (int c = 0; c < TILE_COLUMNS; c++) total[r][c] = multiply_add(row, load_some(w[c] + i, length - i), total[r][c]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++) out[r] = sums(total[r][0], total[r][1], total[r][2], total[r][3]);
}

// `tile` for a number of rows known only now, from 1 to TILE_ROWS.
template <typename Weight, int ROWS = TILE_ROWS>
inline void tile(int rows, const float* x, int64_t x_stride, const Weight* const w[TILE_COLUMNS], int length, Ahead<Weight> ahead, Four* out) {
    if (rows == ROWS) return tile<ROWS>(x, x_stride, w, length, ahead, out);
    if constexpr (ROWS > 1) tile<Weight, ROWS - 1>(rows, x, x_stride, w, length, ahead, out);
}
