// x W^T + b with weights of 8 or 4 bits: integer products within groups of inputs, fp32 sums over the groups.
//
// Outputs come in panels of 16, so that one vector, or a few, hold a panel's sums; the layout of weights and scales is networks/quantized.py's:
//   8 bits: a group of 64 inputs shares a scale, w = scale * (number - 128)
//   4 bits: a group of 32 inputs shares a scale and a minimum, w = scale * number + minimum
//   numbers [panel][step of 4 inputs][16 outputs][4 inputs] bytes; with 4 bits a byte holds one step in its lower half and the next
//           step in its upper half
//   scales  [panel][group][1 or 2][16 outputs] in bfloat16: scales, then minima
// Activations are rounded to 8 bits by row and group. Weights are unsigned, because the processor multiplies unsigned by signed
// bytes: what that adds is taken away again, or what it lacks is added, through the group's sum of activations.
#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

namespace {

constexpr int PANEL = 16;
constexpr int PARTS = PANEL / LANES;  // a panel is computed by as many outputs as a vector holds
constexpr int STEP = 4;  // inputs of one byte product
constexpr int ROWS = 8;  // activation rows that share one reading of the weights
constexpr int64_t MOST_ROWS = 256;  // rounded rows stay in the second-level cache
constexpr int64_t AHEAD = 4096;     // bytes from what is computed to what is fetched from memory
constexpr int64_t SMALL = 1 << 17;  // multiplications that one thread does sooner than two agree on them

typedef int8_t ByteLanes __attribute__((vector_size(LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES * STEP)));

template <int BITS>
constexpr int GROUP = BITS == 8 ? 64 : 32;
constexpr int OFFSET = 128;  // of numbers of 8 bits
template <int BITS>
constexpr int SCALES = BITS == 8 ? 1 : 2;

#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool TAKES_OFFSET = true;  // `dot` multiplies signed numbers
#else
constexpr bool TAKES_OFFSET = false;
#endif

// sums[o] + weights[o] . activations, over four bytes each; less OFFSET times their sum with weights of 8 bits, if TAKES_OFFSET.
template <int BITS>
inline IntLanes dot(IntLanes sums, Bytes weights, const int8_t* activations) {
#if defined(__AVX512VNNI__)
    return (IntLanes)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(read<int32_t>(activations)));
#elif defined(__AVX2__) && !defined(__AVX512F__)
    __m256i magnitudes = (__m256i)weights, numbers = _mm256_set1_epi32(read<int32_t>(activations));
    if constexpr (BITS == 8) {  // two products of 255 x 127 do not fit into 16 bits, two of 128 x 127 do: signs go to the activations
        const __m256i number = _mm256_xor_si256(magnitudes, _mm256_set1_epi8(char(OFFSET)));
        magnitudes = _mm256_abs_epi8(number), numbers = _mm256_sign_epi8(numbers, number);
    }
    return sums + (IntLanes)_mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes, numbers), _mm256_set1_epi16(1));
#else
    for (int o = 0; o < LANES; o++)
        for (int i = 0; i < STEP; i++) sums[o] += int32_t(weights[o * STEP + i]) * activations[i];
    return sums;
#endif
}

// Some rows, rounded, in blocks of nearly equal numbers of rows; a block has the rows of one step beside each other.
struct Activations {
    int64_t rows, inputs, groups, blocks;
    std::vector<int8_t> numbers;  // [block][group][step][ROWS][STEP]
    std::vector<float> scales;    // [block][group][ROWS]
    std::vector<int32_t> starts;  // [block][group][ROWS]: what takes the weights' offset away
    std::vector<float> totals;    // [block][group][ROWS]: sums of the rounded activations

    void prepare(int64_t num_rows, int64_t num_inputs, int64_t group) {
        rows = num_rows, inputs = num_inputs, groups = (num_inputs + group - 1) / group, blocks = (num_rows + ROWS - 1) / ROWS;
        numbers.resize(blocks * groups * group * ROWS);
        scales.resize(blocks * groups * ROWS);
        starts.resize(blocks * groups * ROWS);
        totals.resize(blocks * groups * ROWS);
    }

    int64_t first_row(int64_t block) const { return rows * block / blocks; }

    template <int BITS>
    void round_group(const float* x, int64_t block, int64_t row, int64_t group) {
        constexpr int SIZE = GROUP<BITS>, VECTORS = SIZE / LANES;
        Lanes given[VECTORS], highest = {}, poison = {};
        for (int v = 0; v < VECTORS; v++) {
            const int64_t at = group * SIZE + v * LANES, left = inputs - at;
            const float* from = x + row * inputs + at;
            given[v] = left >= LANES ? load(from) : left > 0 ? load_some(from, int(left)) : Lanes{};
            const Lanes size = given[v] < 0.0f ? -given[v] : given[v];
            highest = size > highest ? size : highest;
            poison += given[v] * 0.0f;  // NaN for what is not finite: it must not vanish in integers
        }
        const float most = largest(highest), inverse = most > 0.0f ? 127.0f / most : 0.0f;
        const Lanes shifter = Lanes{} + 12582912.0f;  // 1.5 x 2^23: adding it rounds to a whole number, in the last bits
        Lanes lanes_total = {};
        const int64_t at = (block * groups + group) * ROWS + row - first_row(block);
        int8_t* to = numbers.data() + (block * groups + group) * SIZE * ROWS + (row - first_row(block)) * STEP;
        for (int v = 0; v < VECTORS; v++) {
            const IntLanes rounded = (IntLanes)(given[v] * inverse + shifter) - (IntLanes)shifter;
            lanes_total += __builtin_convertvector(rounded, Lanes);
            const ByteLanes bytes = __builtin_convertvector(rounded, ByteLanes);
            for (int s = 0; s < LANES / STEP; s++, to += ROWS * STEP) std::memcpy(to, (const char*)&bytes + s * STEP, STEP);
        }
        scales[at] = most / 127.0f + sum(poison);
        const float total = sum(lanes_total);
        starts[at] = -OFFSET * int32_t(total);
        totals[at] = total * scales[at];
    }
};

// One panel of weights, and what to fetch from memory while it is used.
struct Panel {
    const uint8_t* weights;
    const BFloat16* scales;
    const uint8_t* ahead;
    int64_t ahead_lines;  // cache lines for each group
};

// The panel's products with the COUNT rows of a block.
template <int BITS, int COUNT>
__attribute__((noinline)) void tile(Panel panel, const Activations& x, int64_t block, float out[][PANEL]) {
    constexpr int SIZE = GROUP<BITS>, STEPS = SIZE / STEP;
    const int8_t* numbers = x.numbers.data() + block * x.groups * SIZE * ROWS;
    const float* scales = x.scales.data() + block * x.groups * ROWS;
    const int32_t* starts = x.starts.data() + block * x.groups * ROWS;
    const float* totals = x.totals.data() + block * x.groups * ROWS;
    Lanes total[PARTS][COUNT] = {};
    for (int64_t g = 0; g < x.groups; g++) {
        for (int64_t line = 0; line < panel.ahead_lines; line++, panel.ahead += 64) fetch(panel.ahead);
        for (int part = 0; part < PARTS; part++) {
            const uint8_t* weights = panel.weights + part * sizeof(Bytes);
            const int8_t* given = numbers;
            IntLanes sums[COUNT];
#pragma GCC unroll 8
            for (int r = 0; r < COUNT; r++) sums[r] = IntLanes{} + (BITS == 8 && !TAKES_OFFSET ? starts[r] : 0);
#pragma GCC unroll 2
            for (int s = 0; s < STEPS; s += 8 / BITS) {
                const Bytes packed = read<Bytes>(weights);
                weights += PANEL * STEP;
                if constexpr (BITS == 8) {
#pragma GCC unroll 8
                    for (int r = 0; r < COUNT; r++) sums[r] = dot<BITS>(sums[r], packed, given + r * STEP);
                } else {
                    const Bytes low = packed & 15, high = (Bytes)((IntLanes)packed >> 4) & 15;
#pragma GCC unroll 8
                    for (int r = 0; r < COUNT; r++) sums[r] = dot<BITS>(sums[r], low, given + r * STEP);
                    given += ROWS * STEP;
#pragma GCC unroll 8
                    for (int r = 0; r < COUNT; r++) sums[r] = dot<BITS>(sums[r], high, given + r * STEP);
                }
                given += ROWS * STEP;
            }
            const Lanes scale = load(panel.scales + part * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < COUNT; r++) total[part][r] = multiply_add(__builtin_convertvector(sums[r], Lanes), scale * scales[r], total[part][r]);
            if constexpr (BITS == 4) {
                const Lanes minimum = load(panel.scales + PANEL + part * LANES);
#pragma GCC unroll 8
                for (int r = 0; r < COUNT; r++) total[part][r] = multiply_add(minimum, everywhere(totals[r]), total[part][r]);
            }
        }
        panel.weights += SIZE * PANEL * BITS / 8, numbers += SIZE * ROWS;
        panel.scales += SCALES<BITS> * PANEL, scales += ROWS, starts += ROWS, totals += ROWS;
    }
    for (int r = 0; r < COUNT; r++)
        for (int part = 0; part < PARTS; part++) store(out[r] + part * LANES, total[part][r]);
}

// `tile` for a number of rows known only now, from 1 to ROWS.
template <int BITS, int COUNT = ROWS>
void tile(int64_t count, Panel panel, const Activations& x, int64_t block, float out[][PANEL]) {
    if (count == COUNT) return tile<BITS, COUNT>(panel, x, block, out);
    if constexpr (COUNT > 1) tile<BITS, COUNT - 1>(count, panel, x, block, out);
}

struct Matrix {
    const uint8_t* weights;
    const BFloat16* scales;
    const float* bias;
    int64_t inputs, outputs;
};

template <int BITS>
void multiply(const float* x, const Matrix& matrix, float* out, int64_t rows, int threads) {
    static thread_local Activations kept;  // its memory serves the next call too
    Activations& rounded = kept;           // the one of this thread, for all threads of the team
    rounded.prepare(rows, matrix.inputs, GROUP<BITS>);
    const int64_t panels = (matrix.outputs + PANEL - 1) / PANEL, panel_scales = rounded.groups * SCALES<BITS> * PANEL;
    const int64_t panel_bytes = rounded.groups * GROUP<BITS> * PANEL * BITS / 8;
#pragma omp parallel num_threads(threads) if (rows * matrix.inputs * matrix.outputs > SMALL)
    {
#pragma omp for collapse(2) schedule(static)
        for (int64_t block = 0; block < rounded.blocks; block++)
            for (int64_t g = 0; g < rounded.groups; g++)
                for (int64_t row = rounded.first_row(block); row < rounded.first_row(block + 1); row++) rounded.round_group<BITS>(x, block, row, g);
#pragma omp for schedule(static)
        for (int64_t p = 0; p < panels; p++) {
            const int64_t first = p * PANEL, columns = std::min<int64_t>(PANEL, matrix.outputs - first);
            float shift[PANEL] = {};
            for (int64_t c = 0; matrix.bias && c < columns; c++) shift[c] = matrix.bias[first + c];
            const uint8_t* weights = matrix.weights + p * panel_bytes;
            const int64_t lines = panel_bytes / 64 / rounded.groups / rounded.blocks;  // that each block fetches, of as many as a panel has
            for (int64_t block = 0; block < rounded.blocks; block++) {
                const Panel panel{weights, matrix.scales + p * panel_scales, weights + AHEAD + block * lines * rounded.groups * 64, lines};
                const int64_t begin = rounded.first_row(block), end = rounded.first_row(block + 1);
                float products[ROWS][PANEL];
                tile<BITS>(end - begin, panel, rounded, block, products);
                for (int64_t row = begin; row < end; row++) {
                    float *shifted = products[row - begin], *to = out + row * matrix.outputs + first;
                    for (int c = 0; c < PANEL; c++) shifted[c] += shift[c];
                    if (columns == PANEL)
                        std::memcpy(to, shifted, PANEL * sizeof(float));
                    else
                        std::memcpy(to, shifted, columns * sizeof(float));
                }
            }
        }
    }
}

template <int BITS>
void quantized_linear(const float* x, const Matrix& matrix, float* out, int64_t rows, int threads) {
    for (int64_t start = 0; start < rows; start += MOST_ROWS)
        multiply<BITS>(x + start * matrix.inputs, matrix, out + start * matrix.outputs, std::min(MOST_ROWS, rows - start), threads);
}

}  // namespace

extern "C" {

void linear_int8(
    const float* x, const uint8_t* weights, const BFloat16* scales, const float* bias, float* out, int64_t rows, int64_t inputs, int64_t outputs, int threads
) {
    quantized_linear<8>(x, {weights, scales, bias, inputs, outputs}, out, rows, threads);
}

void linear_int4(
    const float* x, const uint8_t* weights, const BFloat16* scales, const float* bias, float* out, int64_t rows, int64_t inputs, int64_t outputs, int threads
) {
    quantized_linear<4>(x, {weights, scales, bias, inputs, outputs}, out, rows, threads);
}

}
