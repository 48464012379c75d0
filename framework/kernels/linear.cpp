// x W^T + b for few rows: the weights are read once, in the layout torch has them, at the speed of the memory.
#include <algorithm>

#include "dots.h"

namespace {

constexpr int64_t SMALL = 1 << 16;  // multiplications that one thread does sooner than two agree on them
constexpr int STREAM_ROWS = 2;      // up to as many rows wait for nothing but the memory
constexpr int64_t AHEAD = 2048;     // bytes from what they read to what is fetched from memory

// `tile` for one or two rows: one weight row after the other, so that memory is read in its order, which the processor foresees.
// The same operations in the same order.
template <int ROWS, typename Weight>
__attribute__((noinline)) void stream(const float* x, int64_t length, const Weight* w, int64_t columns, Four out[ROWS]) {
    Lanes total[TILE_COLUMNS][ROWS] = {};
    for (int64_t c = 0; c < columns; c++, w += length) {
        Lanes products[ROWS] = {};
        int64_t i = 0;
#pragma GCC unroll 4
        for (; i + LANES <= length; i += LANES) {
            fetch((const char*)(w + i) + AHEAD);
            const Lanes column = load(w + i);
#pragma GCC unroll 2
            for (int r = 0; r < ROWS; r++) products[r] = multiply_add(load(x + r * length + i), column, products[r]);
        }
        for (int r = 0; r < ROWS && i < length; r++)
            products[r] = multiply_add(load_some(x + r * length + i, length - i), load_some(w + i, length - i), products[r]);
        for (int r = 0; r < ROWS; r++) total[c][r] = products[r];
    }
    for (int r = 0; r < ROWS; r++) out[r] = sums(total[0][r], total[1][r], total[2][r], total[3][r]);
}

// `stream` for a number of rows known only now, from 1 to STREAM_ROWS.
template <typename Weight, int ROWS = STREAM_ROWS>
void stream(int64_t rows, const float* x, int64_t length, const Weight* w, int64_t columns, Four* out) {
    if (rows == ROWS) return stream<ROWS>(x, length, w, columns, out);
    if constexpr (ROWS > 1) stream<Weight, ROWS - 1>(rows, x, length, w, columns, out);
}

template <typename Weight>
void linear(const float* x, const Weight* weight, const Weight* bias, float* out, int64_t rows, int64_t inputs, int64_t outputs, int threads) {
    const int64_t groups = (outputs + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const int64_t blocks = (rows + TILE_ROWS - 1) / TILE_ROWS;  // of nearly equal numbers of rows
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * inputs * outputs > SMALL)
    for (int64_t group = 0; group < groups; group++) {
        const int64_t first = group * TILE_COLUMNS;
        const int64_t columns = std::min<int64_t>(TILE_COLUMNS, outputs - first);
        const Weight* w[TILE_COLUMNS];
        for (int64_t c = 0; c < TILE_COLUMNS; c++) w[c] = weight + (first + std::min(c, columns - 1)) * inputs;
        Four shift = {};
        for (int64_t c = 0; bias && c < columns; c++) shift[c] = widen(bias[first + c]);
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t begin = rows * block / blocks, end = rows * (block + 1) / blocks;
            const int64_t fetched = TILE_COLUMNS * block / blocks;  // each block fetches its share of the next group
            Ahead<Weight> ahead{weight + (first + TILE_COLUMNS + fetched) * inputs, int(TILE_COLUMNS * (block + 1) / blocks - fetched)};
            Four products[TILE_ROWS];
            if (rows <= STREAM_ROWS)
                stream<Weight>(rows, x, inputs, w[0], columns, products);
            else
                tile<Weight>(int(end - begin), x + begin * inputs, inputs, w, int(inputs), ahead, products);
            for (int64_t n = begin; n < end; n++) {
                const Four shifted = products[n - begin] + shift;
                float* at = out + n * outputs + first;
                if (columns == TILE_COLUMNS)
                    std::memcpy(at, &shifted, sizeof shifted);
                else
                    std::memcpy(at, &shifted, columns * sizeof(float));
            }
        }
    }
}

}  // namespace

extern "C" {

void linear_float32(const float* x, const float* weight, const float* bias, float* out, int64_t rows, int64_t inputs, int64_t outputs, int threads) {
    linear(x, weight, bias, out, rows, inputs, outputs, threads);
}

void linear_bfloat16(
    const float* x, const BFloat16* weight, const BFloat16* bias, float* out, int64_t rows, int64_t inputs, int64_t outputs, int threads
) {
    linear(x, weight, bias, out, rows, inputs, outputs, threads);
}

}
