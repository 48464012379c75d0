// out = (what is there, or the start of each column) + A B for many rows: a blocked product (Goto and van de Geijn 2008) of
// matrices in any layout. Each number of `out` is the sum over the inner length in order, within passes of DEPTH, whatever the
// number of rows, columns and threads.
#include <algorithm>
#include <cstdlib>

#include "vectors.h"

namespace {

#if defined(__AVX512F__)
constexpr int ROWS = 12;  // of a tile: 12 x 2 vectors of sums, and what feeds them, fit into 32 registers
#else
constexpr int ROWS = 4;
#endif
constexpr int COLUMNS = 2 * LANES;
constexpr int64_t DEPTH = 384;             // a panel of ROWS x DEPTH numbers stays in the first-level cache
constexpr int64_t STRIP = 8 * COLUMNS;     // DEPTH x STRIP stay in the second-level cache
constexpr int64_t PIECE = 16 * ROWS;       // rows that a thread takes at a time
constexpr int64_t PACKED = 4096;           // rows, and columns, packed at a time: both stay in the last-level cache

// Lays WIDTH lines side by side, to[k][WIDTH], with zeros for those past `count`.
template <int WIDTH>
void pack(const float* from, int64_t line, int64_t step, int64_t count, int64_t depth, float* to) {
    int64_t k = 0;
    if (line == 1 && count >= WIDTH) {
        for (; k < depth; k++) std::memcpy(to + k * WIDTH, from + k * step, WIDTH * sizeof(float));
    } else if (step == 1 && count >= WIDTH) {
        for (; k + 4 <= depth; k += 4)
            for (int l = 0; l < WIDTH; l += 4) {
                Four square[4];
                for (int r = 0; r < 4; r++) square[r] = read<Four>(from + (l + r) * line + k);
                transpose(square);
                for (int r = 0; r < 4; r++) std::memcpy(to + (k + r) * WIDTH + l, &square[r], sizeof(Four));
            }
    }
    for (; k < depth; k++)
        for (int l = 0; l < WIDTH; l++) to[k * WIDTH + l] = l < count ? from[l * line + k * step] : 0.0f;
}

// Where a tile's sums go: added to what is there, or to the start of each column, if there is one.
struct Target {
    float* out;
    int64_t stride, columns;
    const float* start;
    bool adds;
};

template <int COUNT>
__attribute__((noinline)) void tile(const float* a, const float* b, int64_t depth, Target target) {
    Lanes total[COUNT][2] = {};
    for (int64_t k = 0; k < depth; k++, a += ROWS, b += COLUMNS) {
        const Lanes left = hold(load(b)), right = hold(load(b + LANES));
#pragma GCC unroll 12
        for (int r = 0; r < COUNT; r++) {
            const Lanes x = hold(everywhere(a[r]));
            total[r][0] += x * left;
            total[r][1] += x * right;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < COUNT; r++) {
        float* to = target.out + r * target.stride;
        const float* before = target.adds ? to : target.start;
        if (target.columns >= COLUMNS) {
            store(to, before ? load(before) + total[r][0] : total[r][0]);
            store(to + LANES, before ? load(before + LANES) + total[r][1] : total[r][1]);
        } else {
            float sums[COLUMNS];
            store(sums, total[r][0]);
            store(sums + LANES, total[r][1]);
            for (int c = 0; c < target.columns; c++) to[c] = before ? before[c] + sums[c] : sums[c];
        }
    }
}

// `tile` for a number of rows known only now, from 1 to ROWS.
template <int COUNT = ROWS>
void tile(int64_t count, const float* a, const float* b, int64_t depth, Target target) {
    if (count >= COUNT) return tile<COUNT>(a, b, depth, target);
    if constexpr (COUNT > 1) tile<COUNT - 1>(count, a, b, depth, target);
}

// Memory that serves the next call too.
class Scratch {
    float* numbers = nullptr;
    int64_t size = 0;

public:
    float* of(int64_t wanted) {
        if (wanted > size) {
            std::free(numbers);
            numbers = (float*)std::aligned_alloc(64, (wanted * sizeof(float) + 63) / 64 * 64);
            size = numbers ? wanted : 0;
        }
        return numbers;
    }
    ~Scratch() { std::free(numbers); }
};

int64_t up(int64_t number, int64_t multiple) { return (number + multiple - 1) / multiple * multiple; }

}  // namespace

extern "C" {

struct Product {
    const float* a;
    int64_t a_row, a_column;  // numbers from one row, or column, to the next
    const float* b;
    int64_t b_row, b_column;
    const float* start;  // of each column; may be null
    float* out;
    int64_t out_row, rows, columns, depth, adds;
};

// Returns 0, or 1 where memory is short.
int product_float32(const Product* given, int threads) {
    static thread_local Scratch kept;
    const Product p = *given;
    const int64_t deepest = std::min(DEPTH, p.depth), tallest = up(std::min(PACKED / ROWS * ROWS, p.rows), ROWS);
    float* const packed_a = kept.of(deepest * (tallest + up(std::min(PACKED, p.columns), COLUMNS)));
    float* const packed_b = packed_a + deepest * tallest;
    if (!packed_a) return 1;
#pragma omp parallel num_threads(threads)
    for (int64_t k = 0; k < p.depth; k += DEPTH) {
        const int64_t depth = std::min(DEPTH, p.depth - k);
        for (int64_t column = 0; column < p.columns; column += PACKED) {
            const int64_t columns = std::min(PACKED, p.columns - column);
            const float* b = p.b + k * p.b_row + column * p.b_column;
#pragma omp for schedule(static) nowait
            for (int64_t n = 0; n < columns; n += COLUMNS) pack<COLUMNS>(b + n * p.b_column, p.b_column, p.b_row, columns - n, depth, packed_b + n * depth);
            for (int64_t row = 0; row < p.rows; row += tallest) {
                const int64_t rows = std::min(tallest, p.rows - row);
                const float* a = p.a + row * p.a_row + k * p.a_column;
#pragma omp for schedule(static)
                for (int64_t m = 0; m < rows; m += ROWS) pack<ROWS>(a + m * p.a_row, p.a_row, p.a_column, rows - m, depth, packed_a + m * depth);
#pragma omp for collapse(2) schedule(dynamic, 1)
                for (int64_t strip = 0; strip < columns; strip += STRIP)
                    for (int64_t piece = 0; piece < rows; piece += PIECE)
                        for (int64_t m = piece; m < std::min(piece + PIECE, rows); m += ROWS)
                            for (int64_t n = strip; n < std::min(strip + STRIP, columns); n += COLUMNS) {
                                float* to = p.out + (row + m) * p.out_row + column + n;
                                const Target target{to, p.out_row, columns - n, p.start ? p.start + column + n : nullptr, p.adds || k};
                                tile(rows - m, packed_a + m * depth, packed_b + n * depth, depth, target);
                            }
            }
        }
    }
    return 0;
}

}
