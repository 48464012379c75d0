// What a layer does to each number beside its matrix products: for a few rows torch spends longer on starting its many small
// operations than on the numbers.
#include <cmath>

#include "vectors.h"

namespace {

// The share of a normal distribution beyond |x|, erfc(|x| / sqrt 2) / 2. With z = |x| / sqrt 2 and t = 1 / (1 + z / 2) it is
// t e^(-z^2) / 2 times the e-power of a polynomial in t, fitted by us so that x times the share is off by at most 1.3e-9.
inline Lanes beyond(Lanes x) {
    const Lanes z = (x < 0 ? -x : x) * 0.70710678118654752f, t = 1.0f / (z * 0.5f + 1.0f);
    Lanes power = t * -0.174332127f + 0.930646228f;
    power = power * t - 1.86063889f;
    power = power * t + 1.45916792f;
    power = power * t - 0.208524682f;
    power = power * t + 1.13161839f;
    power = power * t - 1.27793682f;
    return t * 0.5f * exponential(power - z * z);
}

// x / (1 + e^-y); the exponential is taken of numbers up to 0, where it cannot overflow
inline Lanes gated_by(Lanes x, Lanes y) {
    const Lanes e = exponential(y < 0 ? y : -y), part = x * (e / (e + 1.0f));
    return y < 0 ? part : x - part;
}

enum Activation { RELU, RELU2, GELU, GELU_TANH, SILU };  // networks/blocks.py numbers them alike

template <Activation KIND>
inline Lanes bent(Lanes x) {
    const Lanes positive = x < 0 ? Lanes{} : x;
    if constexpr (KIND == RELU) return positive;
    if constexpr (KIND == RELU2) return positive * positive;
    // the others are off by at most 1e-7 (times |x| beyond 1) from float64 on [-10, 10]; torch's own exact GELU by 3.5e-7
    if constexpr (KIND == GELU) {
        const Lanes part = x * beyond(x);
        return x < 0 ? part : x - part;
    }
    // (1 + tanh y) / 2 is 1 / (1 + e^(-2 y))
    if constexpr (KIND == GELU_TANH) return gated_by(x, (x * x * x * 0.044715f + x) * 1.5957691216057308f);
    return gated_by(x, x);
}

template <Activation KIND>
void bend(float* x, const float* factors, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (count > 1 << 14)
    for (int64_t block = 0; block < (count + LANES - 1) / LANES; block++) {
        const int64_t at = block * LANES, some = count - at < LANES ? count - at : LANES;
        Lanes result = bent<KIND>(some < LANES ? load_some(x + at, int(some)) : load(x + at));
        if (factors) result *= some < LANES ? load_some(factors + at, int(some)) : load(factors + at);
        std::memcpy(x + at, &result, some * sizeof(float));
    }
}

}  // namespace

extern "C" {

// x = activation(x), times `factors` unless they are null
void activate(float* x, const float* factors, int64_t count, int kind, int threads) {
    switch (kind) {
        case RELU: return bend<RELU>(x, factors, count, threads);
        case RELU2: return bend<RELU2>(x, factors, count, threads);
        case GELU: return bend<GELU>(x, factors, count, threads);
        case GELU_TANH: return bend<GELU_TANH>(x, factors, count, threads);
        default: return bend<SILU>(x, factors, count, threads);
    }
}

// out = (x - mean) / sqrt(variance + eps) * weight + bias, row by row; the bias may be null, and out may be x
void layer_norm(const float* x, const float* weight, const float* bias, float* out, int64_t rows, int64_t width, float eps) {
    const int64_t whole = width / LANES * LANES;
    for (int64_t row = 0; row < rows; row++, x += width, out += width) {
        Lanes totals = {}, squares = {};
        for (int64_t i = 0; i < whole; i += LANES) totals += load(x + i);
        float total = sum(totals);
        for (int64_t i = whole; i < width; i++) total += x[i];
        const float mean = total / float(width);
        for (int64_t i = 0; i < whole; i += LANES) squares += (load(x + i) - mean) * (load(x + i) - mean);
        total = sum(squares);
        for (int64_t i = whole; i < width; i++) total += (x[i] - mean) * (x[i] - mean);
        const float scale = 1.0f / std::sqrt(total / float(width) + eps);
        for (int64_t i = 0; i < whole; i += LANES) {
            const Lanes scaled = (load(x + i) - mean) * scale * load(weight + i);
            store(out + i, bias ? scaled + load(bias + i) : scaled);
        }
        for (int64_t i = whole; i < width; i++) out[i] = (x[i] - mean) * scale * weight[i] + (bias ? bias[i] : 0.0f);
    }
}

// out = x / sqrt(mean of x^2 + eps) * weight, row by row
void rms_norm(const float* x, const float* weight, float* out, int64_t rows, int64_t width, float eps) {
    const int64_t whole = width / LANES * LANES;
    for (int64_t row = 0; row < rows; row++, x += width, out += width) {
        Lanes squares = {};
        for (int64_t i = 0; i < whole; i += LANES) squares += load(x + i) * load(x + i);
        float total = sum(squares);
        for (int64_t i = whole; i < width; i++) total += x[i] * x[i];
        const float scale = 1.0f / std::sqrt(total / float(width) + eps);
        for (int64_t i = 0; i < whole; i += LANES) store(out + i, load(x + i) * scale * load(weight + i));
        for (int64_t i = whole; i < width; i++) out[i] = x[i] * scale * weight[i];
    }
}

// Turns the pairs (i, i + width / 2) of `heads` neighbouring heads of each row in place; rows begin `stride` numbers apart.
// Cosines and sines: width / 2 for each row.
void rotate(float* x, const float* cosines, const float* sines, int64_t rows, int64_t heads, int64_t width, int64_t stride) {
    const int64_t half = width / 2;
    for (int64_t row = 0; row < rows; row++, cosines += half, sines += half)
        for (int64_t head = 0; head < heads; head++) {
            float *first = x + row * stride + head * width, *second = first + half;
            int64_t i = 0;
            for (; i + LANES <= half; i += LANES) {
                const Lanes a = load(first + i), b = load(second + i), cosine = load(cosines + i), sine = load(sines + i);
                store(first + i, a * cosine - b * sine);
                store(second + i, b * cosine + a * sine);
            }
            for (; i < half; i++) {
                const float a = first[i], b = second[i];
                first[i] = a * cosines[i] - b * sines[i];
                second[i] = b * cosines[i] + a * sines[i];
            }
        }
}

}
