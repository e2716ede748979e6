// C = A B or C + A B by the matrix unit of newer Intel machines (AMX): 16 rows of 16 words of A by 16 words of 16 columns of B at once.
//
// The compiler need not know the instructions; who calls has asked whether the machine does.
#pragma once

#include "multiply.h"

namespace regard::REGARD_ISA {

#if defined(__AVX512F__)
constexpr int tile_side = 16;  // rows of a tile, and words of a row
template <class T>
constexpr bool has_tiles = sizeof(T) == sizeof(float);

// The shapes of tiles, which a thread has from here to there: all of them whole.
class TileShapes {
   public:
    explicit TileShapes(bool wanted = true) : wanted_(wanted) {
        if (!wanted) return;
        struct alignas(64) {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } shapes;
        for (int tile = 0; tile < 8; ++tile) shapes.row_bytes[tile] = 64, shapes.rows[tile] = tile_side;
        asm volatile("ldtilecfg %0" ::"m"(shapes));
    }
    ~TileShapes() {
        if (wanted_) asm volatile("tilerelease");
    }
    TileShapes(const TileShapes&) = delete;
    void operator=(const TileShapes&) = delete;

   private:
    bool wanted_;
};

// Tiles 0 to 3 are sums, 4 and 5 are of A, 6 and 7 of B.
#define REGARD_LOAD_TILE(number, from, stride) asm volatile("tileloadd (%0,%1,1), %%tmm" #number ::"r"(from), "r"(stride) : "memory")
#define REGARD_STORE_TILE(number, to, stride) asm volatile("tilestored %%tmm" #number ", (%0,%1,1)" ::"r"(to), "r"(stride) : "memory")
#define REGARD_CLEAR_TILE(number) asm volatile("tilezero %tmm" #number)
#define REGARD_ADD_TILES(sum, a, b) asm volatile("tdpbf16ps %tmm" #b ", %tmm" #a ", %tmm" #sum)

// One or two tiles of rows by one or two of columns.
template <bool two_rows, bool two_columns>
REGARD_INLINE void tiles(const Matrices<float>& x, Old old) {
    const long a_row = x.a_stride * 4, b_row = x.b_row * 4, c_row = x.c_row * 4;
    float* const c = x.c;
    float* const c_below = x.c + tile_side * x.c_row;
    if (old == Old::none) {
        REGARD_CLEAR_TILE(0);
        if constexpr (two_columns) REGARD_CLEAR_TILE(1);
        if constexpr (two_rows) REGARD_CLEAR_TILE(2);
        if constexpr (two_rows && two_columns) REGARD_CLEAR_TILE(3);
    } else {
        REGARD_LOAD_TILE(0, c, c_row);
        if constexpr (two_columns) REGARD_LOAD_TILE(1, c + tile_side, c_row);
        if constexpr (two_rows) REGARD_LOAD_TILE(2, c_below, c_row);
        if constexpr (two_rows && two_columns) REGARD_LOAD_TILE(3, c_below + tile_side, c_row);
    }
    const float* a = x.a;
    const float* b = x.b;
    for (long k = 0; k < x.depth; k += tile_side, a += tile_side, b += tile_side * x.b_row) {
        REGARD_LOAD_TILE(6, b, b_row);
        REGARD_LOAD_TILE(4, a, a_row);
        REGARD_ADD_TILES(0, 4, 6);
        if constexpr (two_columns) {
            REGARD_LOAD_TILE(7, b + tile_side, b_row);
            REGARD_ADD_TILES(1, 4, 7);
        }
        if constexpr (two_rows) {
            REGARD_LOAD_TILE(5, a + tile_side * x.a_stride, a_row);
            REGARD_ADD_TILES(2, 5, 6);
        }
        if constexpr (two_rows && two_columns) REGARD_ADD_TILES(3, 5, 7);
    }
    REGARD_STORE_TILE(0, c, c_row);
    if constexpr (two_columns) REGARD_STORE_TILE(1, c + tile_side, c_row);
    if constexpr (two_rows) REGARD_STORE_TILE(2, c_below, c_row);
    if constexpr (two_rows && two_columns) REGARD_STORE_TILE(3, c_below + tile_side, c_row);
}

#undef REGARD_LOAD_TILE
#undef REGARD_STORE_TILE
#undef REGARD_CLEAR_TILE
#undef REGARD_ADD_TILES

template <bool two_columns>
void columns_of_tiles(long rows, Matrices<float> x, Old old) {
    for (long row = 0; row < rows; row += 2 * tile_side) {
        x.upcoming->some();
        if (rows - row > tile_side) tiles<true, two_columns>(x, old);
        else tiles<false, two_columns>(x, old);
        x.a += 2 * tile_side * x.a_stride;
        x.c += 2 * tile_side * x.c_row;
    }
}

// Rows and depth in whole tiles; A by rows. Two tiles of columns of B stay in the first cache while all rows pass.
inline void tile_product(long rows, int vectors, Matrices<float> x, Old old) {
    for (int v = 0; v < vectors; v += 2) {
        if (vectors - v > 1) columns_of_tiles<true>(rows, x, old);
        else columns_of_tiles<false>(rows, x, old);
        x.b += 2 * tile_side;
        x.c += 2 * tile_side;
    }
}
#else
template <class T>
constexpr bool has_tiles = false;
struct TileShapes {
    explicit TileShapes(bool) {}
};
#endif

}  // namespace regard::REGARD_ISA
