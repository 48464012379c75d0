// Causal attention of whole sequences and its gradients, for training and long prompts (FlashAttention-2, Dao 2023, with products
// made of tiles). A group of COLUMNS queries is worked on at a time and lies in the lanes of a vector: scores are [key][query], so that
// a softmax needs no sums across lanes and its weights are a panel of the next product as they stand.
#include <cmath>

#include "panels.h"

extern "C" {

// [batch][token][head][width], a head's numbers side by side; the rest by strides.
struct Heads {
    float* numbers;
    int64_t batch, row, head;
};

struct Causal {
    Heads query, key, value, out;
    float* log_sums;  // [batch][head][token]: logarithm of the sum of e^score
    Heads d_query, d_key, d_value, d_out;  // of the backward pass
    int64_t batch, tokens, heads, kv_heads, width;
};

}

namespace {

const float* at(const Heads& heads, int64_t batch, int64_t head) { return heads.numbers + batch * heads.batch + head * heads.head; }
float* to(const Heads& heads, int64_t batch, int64_t head) { return heads.numbers + batch * heads.batch + head * heads.head; }

// Rows of heads as the tiles' left side: panels of ROWS tokens, [width][ROWS] each, or of ROWS places of a head, [tokens][ROWS] each.
void pack_tokens(const float* heads, int64_t row, int64_t tokens, int64_t width, float* packed) {
    for (int64_t t = 0; t < tokens; t += ROWS) pack<ROWS>(heads + t * row, row, 1, tokens - t, width, packed + t * width);
}

void pack_places(const float* heads, int64_t row, int64_t tokens, int64_t width, float* packed) {
    for (int64_t q = 0; q < width; q += ROWS) pack<ROWS>(heads + q, 1, row, width - q, tokens, packed + q * tokens);
}

void scale(float* numbers, int64_t count, float by) {
    for (int64_t i = 0; i < count; i++) numbers[i] *= by;
}

// [rows][COLUMNS] = left panels times a right panel
void multiply(const float* left, const float* right, int64_t rows, int64_t depth, float* out) {
    for (int64_t m = 0; m < rows; m += ROWS) tile(rows - m, left + m * depth, right, depth, {out + m * COLUMNS, COLUMNS, COLUMNS, nullptr, false});
}

// out[token][place] = by[token] * from[place][token] for the first `count` of COLUMNS tokens
void write_turned(const float* from, int64_t width, int64_t count, const float* by, float* out, int64_t row) {
    int64_t t = 0;
    for (; t + 4 <= count; t += 4)
        for (int64_t q = 0; q < width; q += 4) {
            const Four factors = read<Four>(by + t);
            Four square[4];
            for (int i = 0; i < 4; i++) square[i] = read<Four>(from + (q + i) * COLUMNS + t) * factors;
            transpose(square);
            for (int i = 0; i < 4; i++) std::memcpy(out + (t + i) * row + q, &square[i], sizeof(Four));
        }
    for (; t < count; t++)
        for (int64_t q = 0; q < width; q++) out[t * row + q] = by[t] * from[q * COLUMNS + t];
}

// Scores of keys after their query become -infinity: query c stands at first + c.
void hide_later(float* scores, int64_t first, int64_t keys) {
    for (int64_t k = first + 1; k < keys; k++)
        for (int64_t c = 0; c < k - first; c++) scores[k * COLUMNS + c] = -INFINITY;
}

// A thread's memory for one key-value head.
struct Memory {
    float *keys, *values, *other, *query, *d_out, *weights, *slopes, *product, *panel, *rows, *d_key, *d_value;

    Memory(Scratch& scratch, int64_t tokens, int64_t width, bool backward) {
        const int64_t all_tokens = up(tokens, std::max<int64_t>(ROWS, COLUMNS)) + ROWS, places = up(width, ROWS), all_places = up(width, COLUMNS);
        const int64_t sizes[] = {
            all_tokens * width, std::max(all_tokens * width, places * tokens), backward ? places * tokens : 0, width * COLUMNS,
            backward ? width * COLUMNS : 0, all_tokens * COLUMNS, backward ? all_tokens * COLUMNS : 0, places * COLUMNS,
            backward ? ROWS * COLUMNS : 0, backward ? COLUMNS * all_places : 0, backward ? tokens * width : 0, backward ? tokens * width : 0,
        };
        float** const parts[] = {&keys, &values, &other, &query, &d_out, &weights, &slopes, &product, &panel, &rows, &d_key, &d_value};
        int64_t total = 0;
        for (int64_t size : sizes) total += up(size, 16);
        float* next = scratch.of(total);
        for (int p = 0; p < 12; p++) {
            *parts[p] = next;
            next = next ? next + up(sizes[p], 16) : nullptr;
        }
    }
};

void forward(const Causal& c, int64_t batch, int64_t kv_head, const Memory& memory) {
    const int64_t tokens = c.tokens, width = c.width, group = c.heads / c.kv_heads;
    pack_tokens(at(c.key, batch, kv_head), c.key.row, tokens, width, memory.keys);
    pack_places(at(c.value, batch, kv_head), c.value.row, tokens, width, memory.values);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int64_t first = 0; first < tokens; first += COLUMNS) {
            const int64_t count = std::min<int64_t>(COLUMNS, tokens - first), keys = first + count;
            pack<COLUMNS>(at(c.query, batch, head) + first * c.query.row, c.query.row, 1, count, width, memory.query);
            scale(memory.query, width * COLUMNS, 1.0f / std::sqrt(float(width)));
            float* const scores = memory.weights;
            multiply(memory.keys, memory.query, keys, width, scores);
            hide_later(scores, first, keys);
            float by[COLUMNS], log_sums[COLUMNS];
            for (int half = 0; half < COLUMNS; half += LANES) {
                Lanes highest = load(scores + half), total = {};
                for (int64_t k = 1; k < keys; k++) {
                    const Lanes score = load(scores + k * COLUMNS + half);
                    highest = score > highest ? score : highest;
                }
                for (int64_t k = 0; k < keys; k++) {
                    const Lanes weight = exponential(load(scores + k * COLUMNS + half) - highest);
                    store(scores + k * COLUMNS + half, weight);
                    total += weight;
                }
                store(by + half, 1.0f / total);
                for (int lane = 0; lane < LANES; lane++) log_sums[half + lane] = highest[lane] + std::log(total[lane]);
            }
            std::memcpy(c.log_sums + (batch * c.heads + head) * tokens + first, log_sums, count * sizeof(float));
            for (int64_t q = 0; q < width; q += ROWS)
                tile(width - q, memory.values + q * tokens, scores, keys, {memory.product + q * COLUMNS, COLUMNS, COLUMNS, nullptr, false});
            write_turned(memory.product, width, count, by, to(c.out, batch, head) + first * c.out.row, c.out.row);
        }
}

// into[key][place] += sum over queries of left[key][query] * rows[query][place]
void gather(const float* left, int64_t keys, const Heads& heads, const float* from, int64_t count, float by, int64_t width, const Memory& memory, float* into) {
    for (int64_t n = 0; n < width; n += COLUMNS) pack<COLUMNS>(from + n, 1, heads.row, width - n, count, memory.rows + n * COLUMNS);
    scale(memory.rows, up(width, COLUMNS) * COLUMNS, by);
    for (int64_t m = 0; m < keys; m += ROWS) {
        pack<ROWS>(left + m * COLUMNS, COLUMNS, 1, keys - m, count, memory.panel);
        for (int64_t n = 0; n < width; n += COLUMNS)
            tile(keys - m, memory.panel, memory.rows + n * COLUMNS, count, {into + m * width + n, width, width - n, nullptr, true});
    }
}

void backward(const Causal& c, int64_t batch, int64_t kv_head, const Memory& memory) {
    const int64_t tokens = c.tokens, width = c.width, group = c.heads / c.kv_heads;
    const float scaling = 1.0f / std::sqrt(float(width));
    pack_tokens(at(c.key, batch, kv_head), c.key.row, tokens, width, memory.keys);
    pack_tokens(at(c.value, batch, kv_head), c.value.row, tokens, width, memory.values);
    pack_places(at(c.key, batch, kv_head), c.key.row, tokens, width, memory.other);
    std::fill(memory.d_key, memory.d_key + tokens * width, 0.0f);
    std::fill(memory.d_value, memory.d_value + tokens * width, 0.0f);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int64_t first = 0; first < tokens; first += COLUMNS) {
            const int64_t count = std::min<int64_t>(COLUMNS, tokens - first), keys = first + count;
            const float* const query = at(c.query, batch, head) + first * c.query.row;
            const float* const d_out = at(c.d_out, batch, head) + first * c.d_out.row;
            const float* const out = at(c.out, batch, head) + first * c.out.row;
            pack<COLUMNS>(query, c.query.row, 1, count, width, memory.query);
            scale(memory.query, width * COLUMNS, scaling);
            pack<COLUMNS>(d_out, c.d_out.row, 1, count, width, memory.d_out);
            float log_sums[COLUMNS], shares[COLUMNS] = {}, by[COLUMNS];
            std::fill(log_sums, log_sums + COLUMNS, INFINITY);  // what is no query has no weights
            std::memcpy(log_sums, c.log_sums + (batch * c.heads + head) * tokens + first, count * sizeof(float));
            std::fill(by, by + COLUMNS, scaling);
            for (int64_t t = 0; t < count; t++)
                for (int64_t q = 0; q < width; q++) shares[t] += d_out[t * c.d_out.row + q] * out[t * c.out.row + q];
            multiply(memory.keys, memory.query, keys, width, memory.weights);
            hide_later(memory.weights, first, keys);
            multiply(memory.values, memory.d_out, keys, width, memory.slopes);
            for (int half = 0; half < COLUMNS; half += LANES) {
                const Lanes log_sum = load(log_sums + half), share = load(shares + half);
                for (int64_t k = half; k < keys * COLUMNS; k += COLUMNS) {
                    const Lanes weight = exponential(load(memory.weights + k) - log_sum);
                    store(memory.weights + k, weight);
                    store(memory.slopes + k, weight * (load(memory.slopes + k) - share));
                }
            }
            for (int64_t q = 0; q < width; q += ROWS)
                tile(width - q, memory.other + q * tokens, memory.slopes, keys, {memory.product + q * COLUMNS, COLUMNS, COLUMNS, nullptr, false});
            write_turned(memory.product, width, count, by, to(c.d_query, batch, head) + first * c.d_query.row, c.d_query.row);
            gather(memory.slopes, keys, c.query, query, count, scaling, width, memory, memory.d_key);
            gather(memory.weights, keys, c.d_out, d_out, count, 1.0f, width, memory, memory.d_value);
        }
    for (int64_t t = 0; t < tokens; t++) {
        std::memcpy(to(c.d_key, batch, kv_head) + t * c.d_key.row, memory.d_key + t * width, width * sizeof(float));
        std::memcpy(to(c.d_value, batch, kv_head) + t * c.d_value.row, memory.d_value + t * width, width * sizeof(float));
    }
}

}  // namespace

// Forward, or backward where there is a d_out. Returns 0, or 1 where memory is short.
extern "C" int causal_float32(const Causal* given, int threads) {
    const Causal& c = *given;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        static thread_local Scratch kept;
        const Memory memory(kept, c.tokens, c.width, c.d_out.numbers);
        failed = !memory.keys;
#pragma omp for collapse(2) schedule(dynamic, 1)
        for (int64_t batch = 0; batch < c.batch; batch++)
            for (int64_t head = 0; head < c.kv_heads; head++)
                if (!failed) (c.d_out.numbers ? backward : forward)(c, batch, head, memory);
    }
    return failed;
}
