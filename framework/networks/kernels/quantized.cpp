// x W^T + b with weights of 8 or 4 bits: integer products within groups of inputs, fp32 sums over the groups.
//
// Outputs come in panels of 16, so that one vector holds a panel's sums; the layout of weights and scales is networks/quantized.py's:
//   weights [panel][step of 4 inputs][16 outputs][4 inputs] bytes w + 128; with 4 bits a byte holds w + 8 of one step in its lower
//           half and of the next step in its upper half
//   scales  [panel][group][16 outputs] in bfloat16; a group has 64 inputs with 8 bits, 32 with 4
// Activations are rounded to 8 bits by row and group. Weights are unsigned, because the processor multiplies unsigned by signed
// bytes: what is added to them is taken away again through the group's sum of activations.
#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

namespace {

constexpr int PANEL = 16;
constexpr int STEP = 4;  // inputs of one byte product
constexpr int ROWS = 8;  // activation rows that share one reading of the weights

typedef float Floats __attribute__((vector_size(PANEL * 4)));
typedef int32_t Integers __attribute__((vector_size(PANEL * 4)));
typedef uint8_t Bytes __attribute__((vector_size(PANEL * STEP)));

template <int BITS>
constexpr int GROUP = BITS == 8 ? 64 : 32;
template <int BITS>
constexpr int OFFSET = BITS == 8 ? 128 : 8;

// sums[o] + weights[o] . activations, over four bytes each
inline Integers dot(Integers sums, Bytes weights, const int8_t* activations) {
#if defined(__AVX512VNNI__)
    int32_t four;
    std::memcpy(&four, activations, sizeof four);
    return (Integers)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(four));
#else
    for (int o = 0; o < PANEL; o++)
        for (int i = 0; i < STEP; i++) sums[o] += int32_t(weights[o * STEP + i]) * activations[i];
    return sums;
#endif
}

inline Floats scales_of(const BFloat16* scales) {
    Floats wide;
    for (int o = 0; o < PANEL; o++) wide[o] = widen(scales[o]);
    return wide;
}

// The rows of a call, rounded; rows are innermost, so that a tile finds those of one step beside each other.
struct Activations {
    int64_t rows, inputs, group, groups;
    std::vector<int8_t> numbers;   // [group][step][row][4]
    std::vector<float> scales;     // [group][row]
    std::vector<int32_t> starts;   // [group][row]: what a sum of products with offset weights starts from

    void prepare(int64_t num_rows, int64_t num_inputs, int64_t group_size) {
        rows = num_rows, inputs = num_inputs, group = group_size, groups = (num_inputs + group_size - 1) / group_size;
        numbers.resize(groups * group * rows);
        scales.resize(groups * rows);
        starts.resize(groups * rows);
    }

    void round_group(const float* x, int64_t row, int64_t g, int offset) {
        Lanes numbers_here[64 / LANES];
        Lanes highest = {};
        const int64_t vectors = group / LANES, left = inputs - g * group;
        for (int64_t v = 0; v < vectors; v++) {
            const float* from = x + row * inputs + g * group + v * LANES;
            const int64_t count = left - v * LANES;
            const Lanes lanes = count >= LANES ? load(from) : count > 0 ? load_some(from, int(count)) : Lanes{};
            const Lanes size = lanes < 0.0f ? -lanes : lanes;
            highest = size > highest ? size : highest;
            numbers_here[v] = lanes;
        }
        float largest = highest[0];
        for (int l = 1; l < LANES; l++) largest = std::max(largest, highest[l]);
        const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
        const Lanes shifter = Lanes{} + 12582912.0f;  // 1.5 x 2^23: adding it rounds to a whole number, in the last bits
        IntLanes total = {};
        int8_t* to = numbers.data() + (g * group * rows + row * STEP);
        for (int64_t v = 0; v < vectors; v++) {
            const IntLanes rounded = (IntLanes)(numbers_here[v] * inverse + shifter) - (IntLanes)shifter;
            total += rounded;
            for (int s = 0; s < LANES / STEP; s++)
                for (int i = 0; i < STEP; i++) to[((v * LANES / STEP + s) * rows) * STEP + i] = int8_t(rounded[s * STEP + i]);
        }
        int32_t sum = 0;
        for (int l = 0; l < LANES; l++) sum += total[l];
        scales[g * rows + row] = largest / 127.0f;
        starts[g * rows + row] = -offset * sum;
    }
};

// One panel's products with COUNT rows.
template <int BITS, int COUNT>
__attribute__((noinline)) void tile(const uint8_t* weights, const BFloat16* scales, const Activations& x, int64_t row, const uint8_t* ahead, int64_t ahead_bytes, Floats out[COUNT]) {
    constexpr int STEPS = GROUP<BITS> / STEP;
    constexpr int64_t GROUP_BYTES = GROUP<BITS> * PANEL * BITS / 8;
    const int8_t* numbers = x.numbers.data() + row * STEP;
    const int64_t stride = x.rows * STEP, ahead_step = ahead_bytes / x.groups;
    Floats total[COUNT] = {};
    for (int64_t g = 0; g < x.groups; g++) {
        for (int64_t line = 0; line < ahead_step; line += 64) __builtin_prefetch(ahead + g * ahead_step + line);
        Integers sums[COUNT];
#pragma GCC unroll 8
        for (int r = 0; r < COUNT; r++) sums[r] = Integers{} + x.starts[g * x.rows + row + r];
#pragma GCC unroll 2
        for (int s = 0; s < STEPS; s += 8 / BITS) {
            const Bytes packed = read<Bytes>(weights);
            weights += sizeof packed;
            if constexpr (BITS == 8) {
#pragma GCC unroll 8
                for (int r = 0; r < COUNT; r++) sums[r] = dot(sums[r], packed, numbers + r * STEP);
            } else {
                const Bytes low = packed & 15, high = (Bytes)((Integers)packed >> 4) & 15;
#pragma GCC unroll 8
                for (int r = 0; r < COUNT; r++) sums[r] = dot(sums[r], low, numbers + r * STEP);
                numbers += stride;
#pragma GCC unroll 8
                for (int r = 0; r < COUNT; r++) sums[r] = dot(sums[r], high, numbers + r * STEP);
            }
            numbers += stride;
        }
        const Floats scale = scales_of(scales + g * PANEL);
#pragma GCC unroll 8
        for (int r = 0; r < COUNT; r++) total[r] += __builtin_convertvector(sums[r], Floats) * (scale * x.scales[g * x.rows + row + r]);
    }
    (void)GROUP_BYTES;
    for (int r = 0; r < COUNT; r++) out[r] = total[r];
}

template <int BITS, int COUNT = ROWS>
void tile(int count, const uint8_t* weights, const BFloat16* scales, const Activations& x, int64_t row, const uint8_t* ahead, int64_t ahead_bytes, Floats* out) {
    if (count == COUNT) return tile<BITS, COUNT>(weights, scales, x, row, ahead, ahead_bytes, out);
    if constexpr (COUNT > 1) tile<BITS, COUNT - 1>(count, weights, scales, x, row, ahead, ahead_bytes, out);
}

template <int BITS>
void quantized_linear(
    const float* x, const uint8_t* weights, const BFloat16* scales, const float* bias, float* out, int64_t rows, int64_t inputs, int64_t outputs, int threads
) {
    static thread_local Activations rounded;  // its memory is kept from call to call
    Activations& activations = rounded;
    activations.prepare(rows, inputs, GROUP<BITS>);
    const int64_t panels = (outputs + PANEL - 1) / PANEL, groups = activations.groups;
    const int64_t panel_bytes = groups * GROUP<BITS> * PANEL * BITS / 8;
    const int64_t blocks = (rows + ROWS - 1) / ROWS;
#pragma omp parallel num_threads(threads) if (rows * inputs * outputs > (1 << 17))
    {
#pragma omp for collapse(2) schedule(static)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t g = 0; g < groups; g++) activations.round_group(x, row, g, OFFSET<BITS>);
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < panels; panel++) {
            const int64_t first = panel * PANEL, columns = std::min<int64_t>(PANEL, outputs - first);
            const uint8_t* here = weights + panel * panel_bytes;
            Floats shift = {};
            for (int64_t c = 0; bias && c < columns; c++) shift[c] = bias[first + c];
            for (int64_t block = 0; block < blocks; block++) {
                const int64_t begin = rows * block / blocks, end = rows * (block + 1) / blocks;
                Floats products[ROWS];
                const int64_t share = panel_bytes / blocks;  // each block fetches its share of the next panel
                tile<BITS>(int(end - begin), here, scales + panel * groups * PANEL, activations, begin, here + panel_bytes + block * share, share, products);
                for (int64_t n = begin; n < end; n++) {
                    const Floats shifted = products[n - begin] + shift;
                    std::memcpy(out + n * outputs + first, &shifted, columns * sizeof(float));
                }
            }
        }
    }
}

}  // namespace

extern "C" {

void linear_int8(
    const float* x, const uint8_t* weights, const BFloat16* scales, const float* bias, float* out, int64_t rows, int64_t inputs, int64_t outputs, int threads
) {
    quantized_linear<8>(x, weights, scales, bias, out, rows, inputs, outputs, threads);
}

void linear_int4(
    const float* x, const uint8_t* weights, const BFloat16* scales, const float* bias, float* out, int64_t rows, int64_t inputs, int64_t outputs, int threads
) {
    quantized_linear<4>(x, weights, scales, bias, out, rows, inputs, outputs, threads);
}

}
