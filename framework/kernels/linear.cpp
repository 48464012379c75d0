// x W^T + b for few rows: the weights are read once, in the layout torch has them, at the speed of the memory.
#include <algorithm>

#include "dots.h"

namespace {

constexpr int64_t SMALL = 1 << 16;  // multiplications that one thread does sooner than two agree on them
constexpr int STREAM_ROWS = 2;      // up to as many rows wait for nothing but the memory
constexpr int64_t AHEAD = 1024;     // bytes from what they read to what is fetched from memory

// `tile` for one or two rows: each of the four weight rows is followed by the next one of its quarter of the matrix, so the memory
// is read in four orders that the processor foresees.
// The same operations in the same order.
template <int ROWS, typename Weight>
__attribute__((noinline)) void stream(const float* x, int64_t length, const Weight* const w[TILE_COLUMNS], Four out[ROWS]) {
    Lanes total[ROWS][TILE_COLUMNS] = {};
    int64_t i = 0;
    for (; i + LANES <= length; i += LANES) {
        Lanes row[ROWS];
#pragma GCC unroll 2
        for (int r = 0; r < ROWS; r++) row[r] = hold(load(x + r * length + i));
#pragma GCC unroll 4
        for (int c = 0; c < TILE_COLUMNS; c++) {
            fetch((const char*)(w[c] + i) + AHEAD);
            const Lanes column = load(w[c] + i);
#pragma GCC unroll 2
            for (int r = 0; r < ROWS; r++) total[r][c] = multiply_add(row[r], column, total[r][c]);
        }
    }
    for (int r = 0; r < ROWS && i < length; r++) {
        const Lanes row = load_some(x + r * length + i, length - i);
        for (int c = 0; c < TILE_COLUMNS; c++) total[r][c] = multiply_add(row, load_some(w[c] + i, length - i), total[r][c]);
    }
    for (int r = 0; r < ROWS; r++) out[r] = sums(total[r][0], total[r][1], total[r][2], total[r][3]);
}

// `stream` for a number of rows known only now, from 1 to STREAM_ROWS.
template <typename Weight, int ROWS = STREAM_ROWS>
void stream(int64_t rows, const float* x, int64_t length, const Weight* const w[TILE_COLUMNS], Four* out) {
    if (rows == ROWS) return stream<ROWS>(x, length, w, out);
    if constexpr (ROWS > 1) stream<Weight, ROWS - 1>(rows, x, length, w, out);
}

template <typename Weight>
void linear(const float* x, const Weight* weight, const Weight* bias, float* out, int64_t rows, int64_t inputs, int64_t outputs, int threads) {
    const int64_t groups = (outputs + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const int64_t blocks = (rows + TILE_ROWS - 1) / TILE_ROWS;  // of nearly equal numbers of rows
    const bool streams = rows <= STREAM_ROWS;
    const int64_t step = streams ? 1 : TILE_COLUMNS, apart = streams ? groups : 1;  // a group: a row of each quarter, or four neighbours
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
            const int64_t fetched = TILE_COLUMNS * block / blocks;  // each block fetches its share of the next group
            const Ahead<Weight> ahead{weight + (first + TILE_COLUMNS + fetched) * inputs, int(TILE_COLUMNS * (block + 1) / blocks - fetched)};
            Four products[TILE_ROWS];
            if (streams)
                stream<Weight>(rows, x, inputs, w, products);
            else
                tile<Weight>(int(end - begin), x + begin * inputs, inputs, w, int(inputs), ahead, products);
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
