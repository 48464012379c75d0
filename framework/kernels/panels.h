// Tiles of a blocked product, and the panels they are made of: matrices laid out afresh, so that a tile reads memory in its order.
#pragma once

#include <algorithm>
#include <cstdlib>

#include <sys/mman.h>

#include "vectors.h"

namespace {

#if defined(__AVX512F__)
constexpr int ROWS = 12;  // of a tile: 12 x 2 vectors of sums, and what feeds them, fit into 32 registers
#else
constexpr int ROWS = 4;
#endif
constexpr int COLUMNS = 2 * LANES;

// Lays WIDTH lines side by side, to[k][WIDTH], with zeros for those past `count`.
template <int WIDTH>
void pack(const float* from, int64_t line, int64_t step, int64_t count, int64_t depth, float* to) {
    int64_t k = 0;
    if (line == 1 && count >= WIDTH) {
        for (; k < depth; k++) std::memcpy(to + k * WIDTH, from + k * step, WIDTH * sizeof(float));
    } else if (step == 1 && count >= WIDTH) {
        for (int l = 0; l < WIDTH; l++) fetch(from + l * line, depth);
        for (; k + LANES <= depth; k += LANES)
            for (int l = 0; l < WIDTH; l += 4)
                for (int64_t j = k; j < k + LANES; j += 4) {
                    Four square[4];
                    for (int r = 0; r < 4; r++) square[r] = read<Four>(from + (l + r) * line + j);
                    transpose(square);
                    for (int r = 0; r < 4; r++) std::memcpy(to + (j + r) * WIDTH + l, &square[r], sizeof(Four));
                }
    }
    for (; k < depth; k++)
        for (int l = 0; l < WIDTH; l++) to[k * WIDTH + l] = l < count ? from[l * line + k * step] : 0.0f;
}

// One side of a product, or some of its lines, and where its panels go. It is laid out in tasks, each read in the order of memory.
template <int WIDTH>
struct Side {
    static constexpr int64_t STEPS = 4, LINES = 96;  // of a task: some steps of all lines, or all steps of some lines
    const float* from;
    int64_t line, step, count, depth;
    float* to;

    void pack() const {
        for (int64_t task = 0; task < tasks(); task++) pack(task);
    }

    int64_t tasks() const { return line == 1 ? (depth + STEPS - 1) / STEPS : (count + LINES - 1) / LINES; }

    void pack(int64_t task) const {
        const bool across = line == 1;
        const int64_t k = across ? task * STEPS : 0, steps = across ? std::min(STEPS, depth - k) : depth;
        const int64_t first = across ? 0 : task * LINES, lines = across ? count : std::min(LINES, count - first);
        for (int64_t j = k; across && j < k + steps; j++) fetch(from + j * step, count);
        for (int64_t l = first; l < first + lines; l += WIDTH) ::pack<WIDTH>(from + l * line + k * step, line, step, count - l, steps, to + l * depth + k * WIDTH);
    }
};

// Where a tile's sums go: added to what is there, or to the start of each column, if there is one.
struct Target {
    float* out;
    int64_t stride, columns;
    const float* start;
    bool adds;
};

template <int COUNT>
__attribute__((noinline)) void tile(const float* a, const float* b, int64_t depth, Target target) {
    Lanes total[COUNT][2] = {};
    for (int64_t k = 0; k < depth; k++, a += ROWS, b += COLUMNS) {
        const Lanes left = hold(load(b)), right = hold(load(b + LANES));
#pragma GCC unroll 12
        for (int r = 0; r < COUNT; r++) {
            const Lanes x = hold(everywhere(a[r]));
            total[r][0] = multiply_add(x, left, total[r][0]);
            total[r][1] = multiply_add(x, right, total[r][1]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < COUNT; r++) {
        float* to = target.out + r * target.stride;
        const float* before = target.adds ? to : target.start;
        if (target.columns >= COLUMNS) {
            store(to, before ? load(before) + total[r][0] : total[r][0]);
            store(to + LANES, before ? load(before + LANES) + total[r][1] : total[r][1]);
        } else {
            float sums[COLUMNS];
            store(sums, total[r][0]);
            store(sums + LANES, total[r][1]);
            for (int c = 0; c < target.columns; c++) to[c] = before ? before[c] + sums[c] : sums[c];
        }
    }
}

// `tile` for a number of rows known only now, from 1 to ROWS.
template <int COUNT = ROWS>
void tile(int64_t count, const float* a, const float* b, int64_t depth, Target target) {
    if (count >= COUNT) return tile<COUNT>(a, b, depth, target);
    if constexpr (COUNT > 1) tile<COUNT - 1>(count, a, b, depth, target);
}

// Memory that serves the next call too.
class Scratch {
    float* numbers = nullptr;
    int64_t size = 0;

public:
    float* of(int64_t wanted) {
        if (wanted > size) {
            std::free(numbers);
            constexpr int64_t PAGE = 1 << 21;  // in huge pages, whose lines do not fall on each other in the second-level cache
            const int64_t bytes = (wanted * sizeof(float) + PAGE - 1) / PAGE * PAGE;
            numbers = (float*)std::aligned_alloc(PAGE, bytes);
            if (numbers) madvise(numbers, bytes, MADV_HUGEPAGE);
            size = numbers ? wanted : 0;
        }
        return numbers;
    }
    ~Scratch() { std::free(numbers); }
};

// Has the system give fresh memory its pages in one go, which is far cheaper than a fault for each; nothing where they are there.
inline void furnish(float* numbers, int64_t count) {
    constexpr int64_t PAGE = 4096;
    constexpr int POPULATE_WRITE = 23;  // Linux 5.14; older headers do not name it, older systems refuse it
    const int64_t first = ((int64_t)numbers + PAGE - 1) / PAGE * PAGE, last = (int64_t)(numbers + count) / PAGE * PAGE;
    unsigned char there;
    if (first < last && !mincore((void*)first, PAGE, &there) && !(there & 1)) madvise((void*)first, last - first, POPULATE_WRITE);
}

inline int64_t up(int64_t number, int64_t multiple) { return (number + multiple - 1) / multiple * multiple; }

}  // namespace
