// From logits to the next token's loss and its gradient, in place: a row is read from memory and written back once.
#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace {

constexpr int64_t CHUNK = 1024;  // numbers whose weights are summed in single precision

inline void store_some(float* row, int64_t count, Lanes lanes) { std::memcpy(row, &lanes, std::min<int64_t>(count, LANES) * sizeof(float)); }

float differentiate(float* row, int64_t columns, int64_t target) {
    const float highest = largest(row, columns), wanted = row[target];
    double total = 0.0;
    for (int64_t chunk = 0; chunk < columns; chunk += CHUNK) {
        Lanes some = {};
        for (int64_t i = chunk; i < std::min(chunk + CHUNK, columns); i += LANES) {
            const Lanes weights = exponential(load_or(row + i, columns - i, -INFINITY) - highest);
            store_some(row + i, columns - i, weights);
            some += weights;
        }
        total += sum(some);
    }
    const float share = float(1.0 / total);
    for (int64_t i = 0; i < columns; i += LANES) store_some(row + i, columns - i, load_or(row + i, columns - i, 0.0f) * share);
    row[target] -= 1.0f;
    return float(std::log(total) - (double(wanted) - highest));
}

}  // namespace

// logits: [rows, columns], which become the gradients of losses: [rows], nats. Both are 0 where the target is `ignored`.
// Returns 1, having done nothing, where another target is no column; else 0.
extern "C" int next_token_float32(float* logits, const int64_t* targets, float* losses, int64_t rows, int64_t columns, int64_t ignored, int threads) {
    for (int64_t row = 0; row < rows; row++)
        if (targets[row] != ignored && (targets[row] < 0 || targets[row] >= columns)) return 1;
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * columns > (1 << 14))
    for (int64_t row = 0; row < rows; row++) {
        float* const numbers = logits + row * columns;
        if (targets[row] == ignored) std::memset(numbers, 0, columns * sizeof(float));
        losses[row] = targets[row] == ignored ? 0.0f : differentiate(numbers, columns, targets[row]);
    }
    return 0;
}
