// out = (what is there, or the start of each column) + A B for many rows: a blocked product (Goto and van de Geijn 2008) of
// matrices in any layout. Each number of `out` is summed in one order, pass by pass of the inner length, whatever the number of rows,
// columns and threads.
#include <omp.h>

#include "panels.h"

namespace {

constexpr int64_t DEPTH = 512;              // at most, of a pass: a panel of ROWS x DEPTH numbers stays in the first-level cache
constexpr int64_t PIECE = 8 * ROWS;         // rows multiplied by all of a strip, pass by pass
constexpr int64_t PACKED_B = 6 << 14;       // numbers of a strip, for all passes of a step: two fifths of a thread's own second-level cache
constexpr int64_t WIDEST = 6 * COLUMNS;     // strip
constexpr int64_t NARROWEST = 3 * COLUMNS;  // strip into which few columns are cut, so that every thread has some,
constexpr int64_t FEWEST_ROWS = 128;        // and rows that it is then multiplied by: packing must not cost as much as multiplying
constexpr int64_t TASKS = 2;                // of a step for each thread, so that one that is held up does fewer
constexpr int64_t PACKED_A = 1 << 21;       // numbers packed for a step
constexpr int64_t STRETCH = 1 << 18;        // numbers of the result whose memory is asked for at once
static_assert(WIDEST * DEPTH <= PACKED_B, "one pass of a strip must fit");

int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

}  // namespace

extern "C" {

struct Product {
    const float* a;
    int64_t a_row, a_column;  // numbers from one row, or column, to the next
    const float* b;
    int64_t b_row, b_column;
    const float* start;  // of each column; may be null
    float* out;
    int64_t out_row, rows, columns, depth, adds;
};

}

namespace {

// A product in steps: each multiplies some rows and passes of A by all of B's columns. All threads packed these rows during the step before.
struct Steps : Product {
    int64_t pass, most, tallest;  // of a pass; of a step
    int64_t in_rows, count, strip;
    int threads;
    float *strips_of_b, *packed[2];  // one a thread; of A, of even and odd steps

    Steps(const Product& product, int threads) : Product(product), threads(threads) {
        strip = std::clamp(up(parts(columns, TASKS * threads), COLUMNS), NARROWEST, WIDEST);
        pass = parts(depth, parts(depth, DEPTH)), most = std::min(PACKED_B / strip / pass * pass, depth);
        tallest = up(std::min(rows, PACKED_A / most / ROWS * ROWS), ROWS);
        in_rows = parts(rows, tallest), count = in_rows * parts(depth, most);
    }

    bool reserve() {
        static thread_local Scratch kept;
        strips_of_b = kept.of(threads * PACKED_B + 2 * most * tallest);
        packed[0] = strips_of_b + threads * PACKED_B, packed[1] = packed[0] + most * tallest;
        return strips_of_b;
    }

    int64_t row(int64_t step) const { return step % in_rows * tallest; }
    int64_t k(int64_t step) const { return step / in_rows * most; }
    int64_t height(int64_t step) const { return std::min(tallest, rows - row(step)); }
    int64_t deep(int64_t step) const { return std::min(most, depth - k(step)); }
    int64_t strips() const { return parts(columns, strip); }
    int64_t pieces(int64_t step) const { return std::clamp<int64_t>(height(step) / FEWEST_ROWS, 1, parts(TASKS * threads, strips())); }
    int64_t tasks(int64_t step) const { return strips() * pieces(step); }

    Side<ROWS> side(int64_t step) const { return {a + row(step) * a_row + k(step) * a_column, a_row, a_column, height(step), deep(step), packed[step % 2]}; }

    // Memory for what a step writes first: threads that write the same rows would fault on each page twice.
    int64_t stretches(int64_t step) const { return k(step) || out_row != columns ? 0 : parts(height(step) * columns, STRETCH); }
    void furnish(int64_t step, int64_t stretch) const {
        const int64_t first = stretch * STRETCH, last = std::min(first + STRETCH, height(step) * columns);
        ::furnish(out + row(step) * columns + first, last - first);
    }

    // One piece of the rows by one strip of the columns.
    void multiply(int64_t step, int64_t task) const {
        float* const right = strips_of_b + omp_get_thread_num() * PACKED_B;
        const float* const left = packed[step % 2];
        const int64_t depth = deep(step), taken = up(parts(height(step), pieces(step)), ROWS);
        const int64_t first = task % pieces(step) * taken, last = std::min(first + taken, height(step));
        const int64_t column = task / pieces(step) * strip, width = std::min(strip, columns - column);
        Side<COLUMNS>{b + k(step) * b_row + column * b_column, b_column, b_row, width, depth, right}.pack();
        for (int64_t piece = first; piece < last; piece += PIECE)
            for (int64_t from = 0; from < depth; from += pass)
                for (int64_t m = piece; m < std::min(piece + PIECE, last); m += ROWS)
                    for (int64_t n = 0; n < width; n += COLUMNS) {
                        float* to = out + (row(step) + m) * out_row + column + n;
                        const Target target{to, out_row, width - n, start ? start + column + n : nullptr, adds || k(step) + from};
                        tile(height(step) - m, left + m * depth + from * ROWS, right + n * depth + from * COLUMNS, std::min(pass, depth - from), target);
                    }
    }
};

}  // namespace

extern "C" {

// Returns 0, or 1 where memory is short.
int product_float32(const Product* given, int threads) {
    Steps steps(*given, threads);
    if (!steps.reserve()) return 1;
#pragma omp parallel num_threads(threads)
    for (int64_t step = -1; step < steps.count; step++) {
        const int64_t products = step < 0 ? 0 : steps.tasks(step);
        const Side<ROWS> next = steps.side(std::min(step + 1, steps.count - 1));
        const int64_t packs = step + 1 < steps.count ? next.tasks() : 0;
        const int64_t all = products + packs + (step + 1 < steps.count ? steps.stretches(step + 1) : 0);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < all; task++)
            if (task < products)
                steps.multiply(step, task);
            else if (task < products + packs)
                next.pack(task - products);
            else
                steps.furnish(step + 1, task - products - packs);
    }
    return 0;
}

}
