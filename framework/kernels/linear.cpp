// x W^T + b for few rows: the weights are read once, in the layout torch has them, at the speed of the memory.
#include <algorithm>

#include "dots.h"

namespace {

constexpr int64_t SMALL = 1 << 16;  // multiplications that one thread does sooner than two agree on them
constexpr int STREAM_ROWS = 3;      // up to as many rows wait for nothing but the memory
constexpr int64_t AHEAD = 1024;     // bytes from what a stream reads to what it fetches from memory

template <typename Weight>
void linear(const float* x, const Weight* weight, const Weight* bias, float* out, int64_t rows, int64_t inputs, int64_t outputs, int threads) {
    const int64_t groups = (outputs + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const int64_t blocks = (rows + TILE_ROWS - 1) / TILE_ROWS;  // of nearly equal numbers of rows
    const bool streams = rows <= STREAM_ROWS;
    // A group is four neighbours or, for few rows, a row of each quarter: four long streams, which the processor foresees.
    const int64_t step = streams ? 1 : TILE_COLUMNS, apart = streams ? groups : 1;
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * inputs * outputs > SMALL)
    for (int64_t group = 0; group < groups; group++) {
        const int64_t first = group * step;
        const int columns = int(std::min<int64_t>(TILE_COLUMNS, (outputs - first + apart - 1) / apart));
        const Weight* w[TILE_COLUMNS];
        Four shift = {};
        for (int c = 0; c < TILE_COLUMNS; c++) {
            const int64_t column = first + std::min(c, columns - 1) * apart;
            w[c] = weight + column * inputs;
            if (bias) shift[c] = widen(bias[column]);
        }
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t begin = rows * block / blocks, end = rows * (block + 1) / blocks;
            const int64_t fetched = TILE_COLUMNS * block / blocks, count = TILE_COLUMNS * (block + 1) / blocks - fetched;
            const Weight* next = weight + (first + TILE_COLUMNS + fetched) * inputs;
            Four products[TILE_ROWS];
            if (streams)
                tile_of<STREAM_ROWS>(int(rows), x, inputs, w, int(inputs), [&w](int i) {
#pragma GCC unroll 4
                    for (int c = 0; c < TILE_COLUMNS; c++) fetch((const char*)(w[c] + i) + AHEAD);
                }, products);
            else  // each block fetches its share of the next group
                tile_of(int(end - begin), x + begin * inputs, inputs, w, int(inputs), [=](int i) {
                    for (int c = 0; c < count; c++) fetch(next + i * count + c * LANES);
                }, products);
            for (int64_t n = begin; n < end; n++) {
                const Four shifted = products[n - begin] + shift;
                float* at = out + n * outputs + first;
                if (apart == 1 && columns == TILE_COLUMNS)
                    std::memcpy(at, &shifted, sizeof shifted);
                else
                    for (int c = 0; c < columns; c++) at[c * apart] = shifted[c];
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
