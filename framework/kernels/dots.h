// Dot products of a few rows with four rows at a time: what both matrix products and attention scores are made of.
#pragma once

#include "vectors.h"

// out[r][c] = row r of x . row c of w. Each product is the same operations in the same order whatever ROWS is, so that a
// result does not depend on its neighbours. `ahead(i)` fetches from memory what is needed after the numbers from i on.
template <int ROWS, typename Weight, typename Ahead>
__attribute__((noinline)) void tile(const float* x, int64_t x_stride, const Weight* const w[TILE_COLUMNS], int length, Ahead ahead, Four out[ROWS]) {
    Lanes total[ROWS][TILE_COLUMNS] = {};
    int i = 0;
    for (; i + LANES <= length; i += LANES) {
        ahead(i);
        if constexpr (ROWS < TILE_COLUMNS) {  // the fewer are held, so that 3 x 4 sums and they fit into 16 registers
            Lanes row[ROWS];
#pragma GCC unroll 6
            for (int r = 0; r < ROWS; r++) row[r] = hold(load(x + r * x_stride + i));
#pragma GCC unroll 4
            for (int c = 0; c < TILE_COLUMNS; c++) {
                const Lanes column = hold(load(w[c] + i));
#pragma GCC unroll 6
                for (int r = 0; r < ROWS; r++) total[r][c] = multiply_add(row[r], column, total[r][c]);
            }
        } else {
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
template <int MOST_ROWS = TILE_ROWS, typename Weight, typename Ahead>
inline void tile_of(int rows, const float* x, int64_t x_stride, const Weight* const w[TILE_COLUMNS], int length, Ahead ahead, Four* out) {
    if (rows == MOST_ROWS) return tile<MOST_ROWS>(x, x_stride, w, length, ahead, out);
    if constexpr (MOST_ROWS > 1) tile_of<MOST_ROWS - 1>(rows, x, x_stride, w, length, ahead, out);
}
