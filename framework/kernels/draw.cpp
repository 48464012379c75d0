// From logits to tokens: the likeliest, or where uniform numbers fall when probabilities lie side by side, in two readings of the logits.
#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t CHUNK = 128;         // tokens whose weights are summed in single precision, as in engine/draw.py
constexpr double ALMOST_ONE = 1.0 - 0x1p-53;

// The weights of up to CHUNK tokens, 0 past `count`, and their sum; `highest` is the largest quotient.
float weigh(const float* logits, int64_t count, float divisor, float highest, float* weights) {
    Lanes total = {};
    for (int64_t i = 0; i < CHUNK; i += LANES) {
        Lanes each = {};
        if (i + LANES <= count)
            each = exponential(load(logits + i) / divisor - highest);
        else if (i < count) {
            store(weights + i, exponential(load_some(logits + i, int(count - i)) / divisor - highest));
            each = load_some(weights + i, int(count - i));
        }
        store(weights + i, each);
        total += each;
    }
    return sum(total);
}

// The first of `count` growing numbers that is over the target.
int64_t first_over(const double* cumulated, int64_t count, double target) {
    return std::min<int64_t>(std::upper_bound(cumulated, cumulated + count, target) - cumulated, count - 1);
}

void draw(const float* logits, int64_t columns, float divisor, double uniform, int64_t& token, bool& valid) {
    const float highest = largest(logits, columns) / divisor;  // rounding keeps the order, so this is the largest quotient
    const int64_t chunks = (columns + CHUNK - 1) / CHUNK;
    static thread_local std::vector<double> kept;
    kept.resize(std::max<int64_t>(chunks, CHUNK));
    double* const cumulated = kept.data();
    float weights[CHUNK];
    double total = 0.0;
    for (int64_t c = 0; c < chunks; c++) {
        total += weigh(logits + c * CHUNK, columns - c * CHUNK, divisor, highest, weights);
        cumulated[c] = total;
    }
    token = 0;
    valid = total > 0.0;  // not with a NaN, an infinity or without any probability
    if (!valid) return;
    const double target = uniform * total;
    const int64_t chunk = first_over(cumulated, chunks, target);
    const double before = chunk ? cumulated[chunk - 1] : 0.0;
    const double rest = std::min((target - before) / (cumulated[chunk] - before), ALMOST_ONE);
    const int64_t count = std::min(CHUNK, columns - chunk * CHUNK);
    weigh(logits + chunk * CHUNK, count, divisor, highest, weights);
    total = 0.0;
    for (int64_t w = 0; w < count; w++) cumulated[w] = total += weights[w];
    token = chunk * CHUNK + first_over(cumulated, count, rest * total);
}

// The place of the first of the largest numbers; of the first NaN, if there is one.
int64_t best(const float* numbers, int64_t count) {
    constexpr int64_t STRETCH = 1024;
    float highest = -INFINITY;
    int64_t found = 0;
    for (int64_t start = 0; start < count; start += STRETCH) {
        const int64_t end = std::min(count, start + STRETCH);
        Lanes most = everywhere(-INFINITY);
        IntLanes odd = {};
        for (int64_t i = start; i < end; i += LANES) {
            const Lanes lanes = load_or(numbers + i, end - i, -INFINITY);
            most = lanes > most ? lanes : most;
            odd |= lanes != lanes;
        }
        bool is_odd = false;
        for (int l = 0; l < LANES; l++) is_odd |= odd[l] != 0;
        if (is_odd) return std::find_if(numbers + start, numbers + end, [](float number) { return number != number; }) - numbers;
        if (const float here = largest(most); here > highest) highest = here, found = start;
    }
    return std::find(numbers + found, numbers + count, highest) - numbers;
}

}  // namespace

// numbers: [rows, columns], the rows so far apart.
extern "C" void best_float32(const float* numbers, int64_t* places, int64_t rows, int64_t columns, int64_t stride, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * columns > (1 << 17))
    for (int64_t row = 0; row < rows; row++) places[row] = best(numbers + row * stride, columns);
}

// logits: [rows, columns]. divisors: of the rows' logits, all 1 where null. valid: 1 where there is a distribution; where not, the token is 0.
extern "C" void draw_float32(const float* logits, const float* divisors, const double* uniforms, int64_t* tokens, bool* valid, int64_t rows, int64_t columns, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * columns > (1 << 14))
    for (int64_t row = 0; row < rows; row++) draw(logits + row * columns, columns, divisors ? divisors[row] : 1.0f, uniforms[row], tokens[row], valid[row]);
}
