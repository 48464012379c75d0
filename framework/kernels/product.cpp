// out = (what is there, or the start of each column) + A B for many rows: a blocked product (Goto and van de Geijn 2008) of
// matrices in any layout. Each number of `out` is summed in one order, pass by pass of the inner length, whatever the number of rows,
// columns and threads.
#include "panels.h"

namespace {

constexpr int64_t DEPTH = 384;          // at most, of a pass: a panel of ROWS x DEPTH numbers stays in the first-level cache
constexpr int64_t STRIP = 8 * COLUMNS;  // DEPTH x STRIP stay in the second-level cache, beside PIECE x STRIP sums
constexpr int64_t PIECE = 16 * ROWS;    // rows that a thread takes at a time, for all passes that are packed
constexpr int64_t PASSES = 4;           // packed at a time
constexpr int64_t PACKED = 1 << 21;     // numbers of either side packed at a time: both stay in the last-level cache

// Lines of a side packed at a time.
int64_t lines(int64_t count, int64_t depth, int64_t multiple) { return up(std::min(count, PACKED / depth / multiple * multiple), multiple); }

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
    const int64_t passes = (p.depth + DEPTH - 1) / DEPTH, pass = (p.depth + passes - 1) / passes, most = std::min(PASSES * pass, p.depth);
    const int64_t tallest = lines(p.rows, most, ROWS), widest = lines(p.columns, most, COLUMNS);
    float* const packed_a = kept.of(most * (tallest + widest));
    float* const packed_b = packed_a + most * tallest;
    if (!packed_a) return 1;
#pragma omp parallel num_threads(threads)
    for (int64_t k = 0; k < p.depth; k += most) {
        const int64_t depth = std::min(most, p.depth - k);
        for (int64_t column = 0; column < p.columns; column += widest) {
            const int64_t columns = std::min(widest, p.columns - column);
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
                        for (int64_t from = 0; from < depth; from += pass)
                            for (int64_t m = piece; m < std::min(piece + PIECE, rows); m += ROWS)
                                for (int64_t n = strip; n < std::min(strip + STRIP, columns); n += COLUMNS) {
                                    float* to = p.out + (row + m) * p.out_row + column + n;
                                    const Target target{to, p.out_row, columns - n, p.start ? p.start + column + n : nullptr, p.adds || k + from};
                                    const float *left = packed_a + m * depth + from * ROWS, *right = packed_b + n * depth + from * COLUMNS;
                                    tile(rows - m, left, right, std::min(pass, depth - from), target);
                                }
            }
        }
    }
    return 0;
}

}
