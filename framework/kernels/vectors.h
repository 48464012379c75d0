// Vectors of floats in GCC's portable notation: one source for AVX-512, AVX2, SSE and NEON.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int TILE_ROWS = 6;  // activation rows of one tile: 4 x 6 sums and what feeds them fit into 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8;
constexpr int TILE_ROWS = 3;
#else
constexpr int LANES = 4;
constexpr int TILE_ROWS = 4;
#endif
constexpr int TILE_COLUMNS = 4;  // weight rows of one tile

typedef float Lanes __attribute__((vector_size(LANES * 4)));
typedef int32_t IntLanes __attribute__((vector_size(LANES * 4)));
typedef uint32_t WordLanes __attribute__((vector_size(LANES * 4)));
typedef uint16_t HalfLanes __attribute__((vector_size(LANES * 2)));
typedef float Four __attribute__((vector_size(16)));

struct BFloat16 {
    uint16_t bits;  // the upper half of a float
};

inline float widen(float number) { return number; }

inline float widen(BFloat16 number) {
    const uint32_t bits = uint32_t(number.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

template <typename Vector, typename Number>
inline Vector read(const Number* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

inline Lanes load(const float* from) { return read<Lanes>(from); }

inline Lanes load(const BFloat16* from) {
#if defined(__AVX512F__)
    const WordLanes words = (WordLanes)_mm512_cvtepu16_epi32((__m256i)read<HalfLanes>(from));  // GCC 12 takes five instructions for this one
#else
    const WordLanes words = __builtin_convertvector(read<HalfLanes>(from), WordLanes);
#endif
    return (Lanes)(words << 16);
}

// Holds a vector in a register. GCC likes to read it from memory again at each use, and then loads are what limits a tile.
inline Lanes hold(Lanes lanes) {
#if defined(__x86_64__)
    asm("" : "+v"(lanes));
#elif defined(__aarch64__)
    asm("" : "+w"(lanes));
#endif
    return lanes;
}

// Fetches a line that is needed soon into the second-level cache. The first one waits for too few lines at a time to keep the memory busy.
inline void fetch(const void* line) { __builtin_prefetch(line, 0, 2); }

// The same for some numbers.
inline void fetch(const float* from, int64_t count) {
    for (int64_t i = 0; i < count; i += 64 / sizeof(float)) fetch(from + i);
}

// Reads numbers from memory, so that they are in the cache.
template <typename Number>
inline void touch(const Number* from, int64_t count) {
    for (int64_t i = 0; i < count; i += 64 / sizeof(Number)) (void)*(const volatile uint16_t*)(from + i);
}

inline void store(float* to, Lanes lanes) { std::memcpy(to, &lanes, sizeof lanes); }

inline Lanes everywhere(float number) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_set1_ps(number);  // GCC 12 adds the number to a vector of zeros otherwise
#else
    return Lanes{} + number;
#endif
}

// a * b + sum, rounded once where the processor can. GCC would decide that loop by loop, and a sum would not be the same in all of them.
inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__FMA__)
    return (Lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#elif defined(__aarch64__)
    return (Lanes)vfmaq_f32((float32x4_t)sum, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + sum;
#endif
}

// the first `count` numbers, then zeros
template <typename Number>
inline Lanes load_some(const Number* from, int count) {
    Number numbers[LANES] = {};
    std::memcpy(numbers, from, count * sizeof(Number));
    return load(numbers);
}

typedef int32_t Order __attribute__((vector_size(16)));

inline void transpose(Four square[4]) {
    const Four ab = __builtin_shuffle(square[0], square[1], (Order){0, 4, 1, 5}), AB = __builtin_shuffle(square[0], square[1], (Order){2, 6, 3, 7});
    const Four cd = __builtin_shuffle(square[2], square[3], (Order){0, 4, 1, 5}), CD = __builtin_shuffle(square[2], square[3], (Order){2, 6, 3, 7});
    square[0] = __builtin_shuffle(ab, cd, (Order){0, 1, 4, 5});
    square[1] = __builtin_shuffle(ab, cd, (Order){2, 3, 6, 7});
    square[2] = __builtin_shuffle(AB, CD, (Order){0, 1, 4, 5});
    square[3] = __builtin_shuffle(AB, CD, (Order){2, 3, 6, 7});
}

// Adds the lanes up to four, always in the same order.
inline Four fold(Lanes lanes) {
    Four parts[LANES / 4];
    std::memcpy(parts, &lanes, sizeof lanes);
    if constexpr (LANES == 16) return (parts[0] + parts[2]) + (parts[1] + parts[3]);
    if constexpr (LANES == 8) return parts[0] + parts[1];
    return parts[0];
}

// The sums of four vectors, each added up in the same order.
inline Four sums(Lanes first, Lanes second, Lanes third, Lanes fourth) {
#if defined(__AVX512F__)
    // `fold` of two vectors at a time, then of all four: the same additions, sixteen at once
    const __m512 a = (__m512)first, b = (__m512)second, c = (__m512)third, d = (__m512)fourth;
    const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    __m512 four = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    four = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
    four = _mm512_add_ps(four, _mm512_permute_ps(four, 0xb1));
    return (Four)_mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, four));
#else
    const Four a = fold(first), b = fold(second), c = fold(third), d = fold(fourth);
    const Four ab = __builtin_shuffle(a, b, (Order){0, 4, 1, 5}) + __builtin_shuffle(a, b, (Order){2, 6, 3, 7});
    const Four cd = __builtin_shuffle(c, d, (Order){0, 4, 1, 5}) + __builtin_shuffle(c, d, (Order){2, 6, 3, 7});
    return __builtin_shuffle(ab, cd, (Order){0, 1, 4, 5}) + __builtin_shuffle(ab, cd, (Order){2, 3, 6, 7});
#endif
}

inline float sum(Lanes lanes) {
    const Four four = fold(lanes);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

inline float largest(Lanes lanes) {
    Four parts[LANES / 4];
    std::memcpy(parts, &lanes, sizeof lanes);
    Four four = parts[0];
    for (int p = 1; p < LANES / 4; p++) four = parts[p] > four ? parts[p] : four;
    const float first = four[0] > four[1] ? four[0] : four[1], second = four[2] > four[3] ? four[2] : four[3];
    return first > second ? first : second;
}

// The numbers from `from` on that are left of `count`, then `filler`.
inline Lanes load_or(const float* from, int64_t count, float filler) {
    if (count >= LANES) return load(from);
    float numbers[LANES];
    for (int64_t i = 0; i < LANES; i++) numbers[i] = i < count ? from[i] : filler;
    return load(numbers);
}

// The largest of `count` numbers, of which there is at least one.
inline float largest(const float* numbers, int64_t count) {
    const float lowest = -__builtin_inff();
    Lanes most = load_or(numbers, count, lowest);
    for (int64_t i = LANES; i < count; i += LANES) {
        const Lanes lanes = load_or(numbers + i, count - i, lowest);
        most = lanes > most ? lanes : most;
    }
    return largest(most);
}

// e^x to 2 ulp for x <= 88, 0 below -87 (Cephes: 2^n times a polynomial of the rest)
inline Lanes exponential(Lanes x) {
    const Lanes low = Lanes{} - 87.0f;
    const IntLanes vanishes = x < low;
    x = vanishes ? low : x;
    const Lanes shifter = Lanes{} + 12582912.0f;  // 1.5 x 2^23: adding it rounds to a whole number
    const Lanes n = (x * 1.44269504088896341f + shifter) - shifter;
    const Lanes r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Lanes y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    y *= (Lanes)((__builtin_convertvector(n, IntLanes) + 127) << 23);
    return vanishes ? Lanes{} : y;
}
