// All blocks of a Transformer for a few new tokens, out of the other kernels: at one token a layer's twenty operations take
// longer to be started one by one, from Python, than to be done.
#include <cstddef>

#include "vectors.h"

extern "C" {

void linear_float32(const float*, const float*, const float*, float*, int64_t, int64_t, int64_t, int);
void linear_int8(const float*, const uint8_t*, const BFloat16*, const float*, float*, int64_t, int64_t, int64_t, int);
void linear_int4(const float*, const uint8_t*, const BFloat16*, const float*, float*, int64_t, int64_t, int64_t, int);
void rms_norm(const float*, const float*, float*, int64_t, int64_t, float);
void layer_norm(const float*, const float*, const float*, float*, int64_t, int64_t, float);
void activate(float*, const float*, int64_t, int, int);
void rotate(float*, const float*, const float*, int64_t, int64_t, int64_t, int64_t);
void attend_float32(
    const float*, const float*, const float*, const int32_t*, const int32_t*, const int32_t*, float*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
    int64_t, int64_t, int
);

// networks/blocks.py makes the same structures, number by number

struct BlockMatrix {
    int64_t bits;  // 32, 8 or 4; 0: there is no such matrix
    const void* weights;
    const BFloat16* scales;  // of 8 and 4 bits
    const float* bias;
};

struct BlockNorm {
    const float *weight, *bias;  // null for none
};

struct Block {
    BlockNorm attention_norm, feedforward_norm, query_norm, key_norm;  // the last two may be without weights: nothing is normalised
    BlockMatrix qkv, out, gate, up, down;
};

struct Shape {
    int64_t num_layers, width, num_heads, num_kv_heads, head_width, inner_width, window;  // window 0: all earlier positions
    int64_t has_layer_norm;  // else RMS norm
    int64_t activation;  // as elements.cpp numbers them
};

struct Tokens {
    int64_t count;
    const float *cosines, *sines;  // null: nothing is rotated
    float *keys, *values;  // of layer 0
    int64_t layer_stride;  // numbers from a layer's keys to the next layer's
    const int64_t* slots;
    const int32_t *tables, *rows, *positions;
    int64_t table_length, block_tokens;
};

}

namespace {

void multiply(const BlockMatrix& matrix, const float* x, float* out, int64_t rows, int64_t inputs, int64_t outputs, int threads) {
    if (matrix.bits == 32)
        linear_float32(x, (const float*)matrix.weights, matrix.bias, out, rows, inputs, outputs, threads);
    else
        (matrix.bits == 8 ? linear_int8 : linear_int4)(x, (const uint8_t*)matrix.weights, matrix.scales, matrix.bias, out, rows, inputs, outputs, threads);
}

void add(float* to, const float* what, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] += what[i];
}

void normalise(const Shape* shape, const BlockNorm& norm, const float* x, float* out, int64_t rows, int64_t width, float eps) {
    if (shape->has_layer_norm)
        layer_norm(x, norm.weight, norm.bias, out, rows, width, eps);
    else
        rms_norm(x, norm.weight, out, rows, width, eps);
}

}  // namespace

extern "C" {

// hidden: [count, width], in place. scratch: count * (width + the widths of qkv, of all query heads and twice of the feed-forward).
void blocks(float* hidden, const Block* layers, const Shape* shape, const Tokens* tokens, float* scratch, float eps, int threads) {
    const int64_t count = tokens->count, width = shape->width, head = shape->head_width;
    const int64_t queries = shape->num_heads * head, keys = shape->num_kv_heads * head, all = queries + 2 * keys, inner = shape->inner_width;
    float *normal = scratch, *qkv = normal + count * width, *mixed = qkv + count * all, *bent = mixed + count * queries, *up = bent + count * inner;
    for (int64_t layer = 0; layer < shape->num_layers; layer++) {
        const Block& block = layers[layer];
        float *layer_keys = tokens->keys + layer * tokens->layer_stride, *layer_values = tokens->values + layer * tokens->layer_stride;
        normalise(shape, block.attention_norm, hidden, normal, count, width, eps);
        multiply(block.qkv, normal, qkv, count, width, all, threads);
        for (int64_t n = 0; n < count && block.query_norm.weight; n++) {
            float *query = qkv + n * all, *key = query + queries;
            normalise(shape, block.query_norm, query, query, shape->num_heads, head, eps);
            normalise(shape, block.key_norm, key, key, shape->num_kv_heads, head, eps);
        }
        if (tokens->cosines)
            rotate(qkv, tokens->cosines, tokens->sines, count, shape->num_heads + shape->num_kv_heads, head, all);
        for (int64_t n = 0; n < count; n++) {
            std::memcpy(layer_keys + tokens->slots[n] * keys, qkv + n * all + queries, keys * sizeof(float));
            std::memcpy(layer_values + tokens->slots[n] * keys, qkv + n * all + queries + keys, keys * sizeof(float));
        }
        attend_float32(
            qkv, layer_keys, layer_values, tokens->tables, tokens->rows, tokens->positions, mixed, count, shape->num_heads, shape->num_kv_heads, head, all,
            tokens->table_length, tokens->block_tokens, shape->window, threads
        );
        multiply(block.out, mixed, normal, count, queries, width, threads);
        add(hidden, normal, count * width);
        normalise(shape, block.feedforward_norm, hidden, normal, count, width, eps);
        const bool is_gated = block.gate.bits;
        multiply(is_gated ? block.gate : block.up, normal, bent, count, width, inner, threads);
        if (is_gated) multiply(block.up, normal, up, count, width, inner, threads);
        activate(bent, is_gated ? up : nullptr, count * inner, int(shape->activation), threads);
        multiply(block.down, bent, normal, count, inner, width, threads);
        add(hidden, normal, count * width);
    }
}

}
