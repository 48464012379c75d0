// Attention of few new tokens to the keys and values of a paged cache.
#include <algorithm>
#include <cmath>
#include <memory>

#include "dots.h"

namespace {

// Positions are read in chunks that start at multiples of this; each chunk's softmax is its own and the chunks are joined in
// order. So one long context keeps every thread busy, and a token's result does not depend on the threads or on other tokens.
constexpr int CHUNK = 64;
constexpr int64_t SCRATCH = 1 << 22;     // floats kept for unjoined chunks
constexpr int64_t READ_AHEAD = 1 << 18;  // bytes of keys and values read before they are used: they stay in the second-level cache

template <typename Number>
struct Attention {
    const float* query_NHQ;
    const Number* keys_SKQ;
    const Number* values_SKQ;
    const int32_t* tables_RM;
    const int32_t* rows_N;
    const int32_t* positions_N;
    float* out_NHQ;
    int64_t num_tokens, num_heads, num_kv_heads, width, query_stride, table_length, block_tokens, window;

    int64_t group() const { return num_heads / num_kv_heads; }
    int64_t first_position(int64_t token) const { return window ? std::max<int64_t>(0, positions_N[token] - window + 1) : 0; }
    int64_t first_chunk(int64_t token) const { return first_position(token) / CHUNK; }
    int64_t num_chunks(int64_t token) const { return positions_N[token] / CHUNK + 1 - first_chunk(token); }
    int64_t partial_size() const { return group() * (width + 2); }

    // Weighted sums of values, [rows, VECTORS * LANES] of one chunk. Fewer than LANES numbers when `some` is given.
    template <int ROWS, int VECTORS>
    static void mix(const float weights[][CHUNK], const Number* const* values, int length, int64_t at, int some, float* out, int64_t stride) {
        Lanes total[ROWS][VECTORS] = {};
        for (int t = 0; t < length; t++) {
            Lanes value[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) value[v] = some ? load_some(values[t] + at, some) : load(values[t] + at + v * LANES);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) total[r][v] = multiply_add(everywhere(weights[r][t]), value[v], total[r][v]);
        }
        for (int r = 0; r < ROWS; r++)
            std::memcpy(out + r * stride + at, total[r], some ? some * sizeof(float) : sizeof total[r]);
    }

    template <int ROWS>
    void mix(const float weights[][CHUNK], const Number* const* values, int length, float* out, int64_t stride) const {
        int64_t q = 0;
        for (; q + 4 * LANES <= width; q += 4 * LANES) mix<ROWS, 4>(weights, values, length, q, 0, out, stride);
        for (; q + LANES <= width; q += LANES) mix<ROWS, 1>(weights, values, length, q, 0, out, stride);
        if (q < width) mix<ROWS, 1>(weights, values, length, q, int(width - q), out, stride);
    }

    // Softmax over one chunk for the query heads [begin, begin + rows) of a group: per head the maximum, the sum and the unnormalised mix.
    void chunk_rows(const float* query, const Number* const* keys, const Number* const* values, int length, int rows, float* partial) const {
        float scores[4][CHUNK] __attribute__((aligned(64)));
        const float scale = 1.0f / std::sqrt(float(width));
        for (int t = 0; t < length; t += TILE_COLUMNS) {
            Four products[4];
            const auto nothing = [](int) {};
            if constexpr (TILE_ROWS >= 4) {
                tile_of(rows, query, width, keys + t, int(width), nothing, products);
            } else {
                for (int r = 0; r < rows; r++) tile<1>(query + r * width, width, keys + t, int(width), nothing, products + r);
            }
            for (int r = 0; r < rows; r++) {
                const Four scaled = products[r] * scale;
                std::memcpy(scores[r] + t, &scaled, sizeof scaled);
            }
        }
        const int64_t stride = width + 2;
        for (int r = 0; r < rows; r++) {
            std::fill(scores[r] + length, scores[r] + CHUNK, -INFINITY);
            const float highest = largest(scores[r], CHUNK);
            Lanes total = {};
            for (int t = 0; t < CHUNK; t += LANES) {
                const Lanes weights = exponential(load(scores[r] + t) - highest);
                store(scores[r] + t, weights);
                total += weights;
            }
            partial[r * stride] = highest;
            partial[r * stride + 1] = sum(total);
        }
        switch (rows) {
            case 4: return mix<4>(scores, values, length, partial + 2, stride);
            case 3: return mix<3>(scores, values, length, partial + 2, stride);
            case 2: return mix<2>(scores, values, length, partial + 2, stride);
            default: return mix<1>(scores, values, length, partial + 2, stride);
        }
    }

    // All heads of one chunk. Keys and values are read from memory in their order before anything is computed of them: a head alone
    // reads pieces of rows, which the processor does not foresee.
    void chunk(int64_t token, int64_t number, float* partials, int64_t per_head) const {
        const int64_t begin = std::max(first_position(token), number * CHUNK), row = num_kv_heads * width;
        const int length = int(std::min<int64_t>(positions_N[token] + 1, (number + 1) * CHUNK) - begin);
        const int32_t* table = tables_RM + rows_N[token] * table_length;
        const Number *keys[CHUNK + TILE_COLUMNS], *values[CHUNK];
        for (int t = 0; t < length; t++) {
            const int64_t position = begin + t;
            const int64_t slot = table[position / block_tokens] * block_tokens + position % block_tokens;
            keys[t] = keys_SKQ + slot * row;
            values[t] = values_SKQ + slot * row;
        }
        std::fill(keys + length, keys + length + TILE_COLUMNS, keys[0]);  // the last tile may have fewer keys
        const bool is_read = token && rows_N[token] == rows_N[token - 1];  // by the token before
        const int64_t heads_at_once = std::max<int64_t>(1, READ_AHEAD / (2 * CHUNK * width * sizeof(Number)));
        for (int64_t k = 0; k < num_kv_heads; k++) {
            if (k % heads_at_once == 0 && !is_read) {
                const int64_t numbers = std::min(heads_at_once, num_kv_heads - k) * width;
                for (int t = 0; t < length; t++) touch(keys[t], numbers);
                for (int t = 0; t < length; t++) touch(values[t], numbers);
            }
            const float* query = query_NHQ + token * query_stride + k * group() * width;
            for (int64_t g = 0; g < group(); g += 4)
                chunk_rows(query + g * width, keys, values, length, int(std::min<int64_t>(4, group() - g)), partials + k * per_head + g * (width + 2));
            for (auto& key : keys) key += width;
            for (auto& value : values) value += width;
        }
    }

    // Join the chunks of one token and query head.
    void join(int64_t token, int64_t head, const float* partials) const {
        float* out = out_NHQ + (token * num_heads + head) * width;
        const int64_t chunks = num_chunks(token), stride = partial_size();
        const float* partial = partials + (head % group()) * (width + 2);
        float highest = partial[0], total = 0.0f;
        for (int64_t c = 1; c < chunks; c++) highest = std::max(highest, partial[c * stride]);
        std::fill(out, out + width, 0.0f);
        for (int64_t c = 0; c < chunks; c++) {
            const float share = std::exp(partial[c * stride] - highest);
            total += share * partial[c * stride + 1];
            for (int64_t q = 0; q < width; q++) out[q] += share * partial[c * stride + 2 + q];
        }
        for (int64_t q = 0; q < width; q++) out[q] /= total;
    }

    void run(int threads) const {
        int64_t chunks = 1;
        for (int64_t n = 0; n < num_tokens; n++) chunks = std::max(chunks, num_chunks(n));
        const int64_t per_head = chunks * partial_size(), per_token = per_head * num_kv_heads;
        const int64_t at_once = std::clamp<int64_t>(SCRATCH / per_token, 1, num_tokens);
        const std::unique_ptr<float[]> partials(new float[at_once * per_token]);
        for (int64_t start = 0; start < num_tokens; start += at_once) {
            const int64_t count = std::min(at_once, num_tokens - start);
#pragma omp parallel num_threads(threads) if (count * num_heads * chunks * CHUNK * width > (1 << 15))
            {
#pragma omp for collapse(2) schedule(dynamic, 1)
                for (int64_t n = 0; n < count; n++)
                    for (int64_t c = 0; c < chunks; c++)
                        if (c < num_chunks(start + n)) chunk(start + n, first_chunk(start + n) + c, &partials[n * per_token + c * partial_size()], per_head);
#pragma omp for collapse(2) schedule(static)
                for (int64_t n = 0; n < count; n++)
                    for (int64_t h = 0; h < num_heads; h++) join(start + n, h, &partials[n * per_token + h / group() * per_head]);
            }
        }
    }
};

}  // namespace

extern "C" {

void attend_float32(
    const float* query, const float* keys, const float* values, const int32_t* tables, const int32_t* rows, const int32_t* positions, float* out,
    int64_t num_tokens, int64_t num_heads, int64_t num_kv_heads, int64_t width, int64_t query_stride, int64_t table_length, int64_t block_tokens, int64_t window,
    int threads
) {
    Attention<float>{query, keys, values, tables, rows, positions, out, num_tokens, num_heads, num_kv_heads, width, query_stride, table_length, block_tokens, window}
        .run(threads);
}

void attend_bfloat16(
    const float* query, const BFloat16* keys, const BFloat16* values, const int32_t* tables, const int32_t* rows, const int32_t* positions,
    float* out, int64_t num_tokens, int64_t num_heads, int64_t num_kv_heads, int64_t width, int64_t query_stride, int64_t table_length, int64_t block_tokens,
    int64_t window, int threads
) {
    Attention<BFloat16>{
        query, keys, values, tables, rows, positions, out, num_tokens, num_heads, num_kv_heads, width, query_stride, table_length, block_tokens, window
    }.run(threads);
}

}
