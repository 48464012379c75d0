// What a layer does to each number beside its matrix products: for a few rows torch spends longer on starting its many small
// operations than on the numbers.
#include <cmath>

#include "vectors.h"

extern "C" {

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
