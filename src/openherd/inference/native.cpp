// A layer of the model for rows of several texts. Weights are fp32, bf16, or int8 with a scale for each row, in panels or tiles (see
// there). Beside bf16 and int8 the activations are bf16 where the processor multiplies them, fp32 elsewhere, and beside int8 16-bit
// numbers where it multiplies bytes; sums, norms, rotations and softmax are fp32. The outcome of a row does not depend on the others
// to the last bit. Compiled by torch when it is first needed; `native.py` holds the same structures.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif
#if defined(__AVX512BF16__) && defined(__AVX512F__)
#define MULTIPLIES_BF16
#endif
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
#define MULTIPLIES_INT8
#endif
#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(MULTIPLIES_BF16) && defined(MULTIPLIES_INT8) && defined(__linux__)
#define MULTIPLIES_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int CHUNK = 16;     // rows of weights that are computed at once
constexpr int AT_ONCE = 128;  // rows of activations, which stay near the processor meanwhile

struct bf16 {
    uint16_t bits;
};

inline float wide(float x) { return x; }
inline float wide(int8_t x) { return x; }
inline float wide(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}

inline void narrow(float x, float& y) { y = x; }
inline void narrow(float x, bf16& y) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    y.bits = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x for x <= 0 to 2 units in the last place: 2^n times a polynomial in the rest, which is at most half of ln 2.
inline float exponential(float x) {
    x = std::max(x, -87.0f);
    float n = std::nearbyint(x * 1.44269504f);
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float y = 1.0f + r * (1.0f + r * (0.5f + r * (1.66666657e-1f + r * (4.16657962e-2f + r * (8.33345205e-3f + r * 1.39303365e-3f)))));
    int32_t bits = (int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return y * power;
}

// Activations of 16 bits: a row is D high halves, then D low ones, so that x = scale * (256 high + low).
struct fixed16 {
    int8_t byte[2];
};

struct About {  // a row of them
    float scale;
    int32_t high, low;  // 128 times the sums of the halves
};

// What stands beside weights W: activations X, and what the cache holds.
template <class W> struct Beside {
#ifdef MULTIPLIES_BF16
    using X = bf16;
#else
    using X = float;
#endif
    using Cache = bf16;
};
template <> struct Beside<float> {
    using X = float;
    using Cache = float;
};
#ifdef MULTIPLIES_INT8
template <> struct Beside<int8_t> {
    using X = fixed16;
    using Cache = bf16;
};
#endif

template <class X> struct Rows {
    const X* x;
    const About* about;
    const X* row(int t, int D) const { return x + size_t(t) * D; }
};

constexpr int PANEL = 4;  // rows of weights

// Rows of weights: row after row, or, packed, the first 64 bytes of PANEL rows, then their next, so that memory is read in order.
template <class W> struct Panels {
    static constexpr int step = 64 / sizeof(W);
    const W* rows;
    size_t row_stride, step_stride, panel_stride;
    static Panels packed(const void* rows, int D) { return {(const W*)rows, step, PANEL * step, size_t(PANEL) * D}; }
    static Panels plain(const W* rows, int D) { return {rows, size_t(D), step, size_t(PANEL) * D}; }
    const W* at(int panel, int f, int d) const {
        return rows + panel * panel_stride + f * row_stride + d / step * step_stride + d % step;
    }
    Panels from(int f, int D) const { return {rows + size_t(f) * D, row_stride, step_stride, panel_stride}; }
};

// The panel that comes next, a part of it for each tile of the one before.
struct Ahead {
    const char* at = nullptr;
    int lines = 0;
    Ahead() = default;
    template <class W> Ahead(Panels<W> next, int D, int tile, int tiles) {
        lines = tiles >= PANEL ? 1 : PANEL / tiles;
        at = (const char*)next.rows + size_t(tile) * lines * D * sizeof(W);
        if (tile * lines >= PANEL) lines = 0;
    }
    inline void call() {
        for (int i = 0; i < lines; i++, at += 64) __builtin_prefetch(at);
    }
};

template <class X> void set(const float* row, int D, X* out, About*) {
    for (int d = 0; d < D; d++) narrow(row[d], out[d]);
}
inline void set(const float* row, int D, fixed16* out, About* about) {
    float most = 0, sum = 0;
#pragma omp simd reduction(max : most) reduction(+ : sum)
    for (int d = 0; d < D; d++) most = std::max(most, std::fabs(row[d])), sum += row[d];
    float inverse = most > 0 ? 32512.0f / most : 0.0f;  // 127 * 256: the high half with its carry stays within a byte
    int8_t *high = (int8_t*)out, *low = high + D;
    int32_t highs = 0, lows = 0;
#pragma omp simd reduction(+ : highs, lows)
    for (int d = 0; d < D; d++) {
        int32_t whole = int32_t(std::nearbyint(row[d] * inverse)), h = (whole + 128) >> 8, l = whole - (h << 8);
        high[d] = int8_t(h), low[d] = int8_t(l);
        highs += h, lows += l;
    }
    *about = {std::isfinite(sum) ? most / 32512.0f : NAN, 128 * highs, 128 * lows};  // a row with what is no number is none
}

#ifdef __AVX512F__
inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }
inline __m512 load(const bf16* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
inline __m512 load(const int8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))); }

template <class X> struct Vector {  // of activations X, and of weights brought to the same form
    static constexpr int step = 16;
    template <class W> static __m512 read(const W* p) { return load(p); }
    static __m512 add(__m512 sum, __m512 a, __m512 b) { return _mm512_fmadd_ps(a, b, sum); }
};
#ifdef MULTIPLIES_BF16
template <> struct Vector<bf16> {
    static constexpr int step = 32;
    static __m512bh read(const bf16* p) { return (__m512bh)_mm512_loadu_si512(p); }
    static __m512 add(__m512 sum, __m512bh a, __m512bh b) { return _mm512_dpbf16_ps(sum, a, b); }
};
#endif

template <int bit> inline __m512 exchanged(__m512 x) {  // lanes whose numbers differ in one bit
    if constexpr (bit == 0) return _mm512_permute_ps(x, 0xB1);
    if constexpr (bit == 1) return _mm512_permute_ps(x, 0x4E);
    if constexpr (bit == 2) return _mm512_shuffle_f32x4(x, x, 0xB1);
    return _mm512_shuffle_f32x4(x, x, 0x4E);
}

template <int bit> inline __m512 halved(__m512 a, __m512 b) {
    constexpr __mmask16 of_b[] = {0xAAAA, 0xCCCC, 0xF0F0, 0xFF00};
    return _mm512_add_ps(_mm512_mask_blend_ps(of_b[bit], a, b), exchanged<bit>(_mm512_mask_blend_ps(of_b[bit], b, a)));
}

inline __m512 sums(__m512* v) {  // lane i is the sum of v[i]
    for (int i = 0; i < 8; i++) v[i] = halved<0>(v[2 * i], v[2 * i + 1]);
    for (int i = 0; i < 4; i++) v[i] = halved<1>(v[2 * i], v[2 * i + 1]);
    for (int i = 0; i < 2; i++) v[i] = halved<2>(v[2 * i], v[2 * i + 1]);
    return halved<3>(v[0], v[1]);
}

// PANEL rows of weights, of each of PS panels, times TS rows of activations, which lie D apart; out[t][f]. While it computes it
// calls the weights that come next from memory.
template <int PS, int TS, class W, class X> inline void tile(Panels<W> w, const X* x, int D, float* out, int stride, Ahead ahead) {
    using V = Vector<X>;
    static_assert(PS == 1 || TS == 1);
    __m512 sum[16];
    for (int i = 0; i < 16; i++) sum[i] = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int p = 0; p < PS; p++)
        for (int d = 0; d < D; d += V::step) {
            ahead.call();
            decltype(V::read(w.rows)) row[PANEL];
#pragma GCC unroll 4
            for (int f = 0; f < PANEL; f++) row[f] = V::read(w.at(p, f, d));
#pragma GCC unroll 4
            for (int t = 0; t < TS; t++) {
                auto column = V::read(x + size_t(t) * D + d);
#pragma GCC unroll 4
                for (int f = 0; f < PANEL; f++) {
                    __m512& to = sum[(p * TS + t) * PANEL + f];
                    to = V::add(to, row[f], column);
                }
            }
        }
    float found[16];
    _mm512_storeu_ps(found, sums(sum));
    for (int t = 0; t < TS; t++)
        for (int f = 0; f < PS * PANEL; f++) out[size_t(t) * stride + f] = found[t * PANEL + f];
}
#endif

#ifdef MULTIPLIES_INT8
inline __m512i sums(__m512i* v) {
    for (int bit = 0, n = 8; n; bit++, n /= 2)
        for (int i = 0; i < n; i++) {
            constexpr __mmask16 of_b[] = {0xAAAA, 0xCCCC, 0xF0F0, 0xFF00};
            __m512 a = _mm512_castsi512_ps(v[2 * i]), b = _mm512_castsi512_ps(v[2 * i + 1]);
            __m512 kept = _mm512_mask_blend_ps(of_b[bit], a, b), other = _mm512_mask_blend_ps(of_b[bit], b, a);
            other = bit == 0 ? exchanged<0>(other) : bit == 1 ? exchanged<1>(other) : bit == 2 ? exchanged<2>(other) : exchanged<3>(other);
            v[i] = _mm512_add_epi32(_mm512_castps_si512(kept), _mm512_castps_si512(other));
        }
    return v[0];
}

// The instruction takes unsigned by signed bytes: 128 is added to the weights, and 128 times the sum of the halves taken off.
template <int PS, int TS>
inline void tile(Panels<int8_t> w, const float* scale, const fixed16* x, const About* about, int D, float* out, int stride, Ahead ahead) {
    static_assert(PS == 1 || TS == 1);
    const __m512i flip = _mm512_set1_epi8(-128);
    __m512i sum[16];
    for (int i = 0; i < 16; i++) sum[i] = _mm512_setzero_si512();
#pragma GCC unroll 2
    for (int p = 0; p < PS; p++)
        for (int d = 0; d < D; d += 64) {
            ahead.call();
            __m512i row[PANEL];
#pragma GCC unroll 4
            for (int f = 0; f < PANEL; f++) row[f] = _mm512_xor_si512(_mm512_loadu_si512(w.at(p, f, d)), flip);
#pragma GCC unroll 2
            for (int t = 0; t < TS; t++) {
                const int8_t* bytes = (const int8_t*)(x + size_t(t) * D) + d;
                __m512i high = _mm512_loadu_si512(bytes), low = _mm512_loadu_si512(bytes + D);
#pragma GCC unroll 4
                for (int f = 0; f < PANEL; f++) {
                    int i = (p * TS + t) * PANEL + f;
                    sum[i] = _mm512_dpbusd_epi32(sum[i], row[f], high);
                    sum[8 + i] = _mm512_dpbusd_epi32(sum[8 + i], row[f], low);
                }
            }
        }
    int32_t found[16];
    _mm512_storeu_si512(found, sums(sum));
    for (int t = 0; t < TS; t++)
        for (int f = 0; f < PS * PANEL; f++) {
            int i = t * PANEL + f;
            float high = float(found[i] - about[t].high), low = float(found[8 + i] - about[t].low);
            out[size_t(t) * stride + f] = (256.0f * high + low) * (about[t].scale * scale[f]);
        }
}
#endif

template <class W, class X> inline float dot(Panels<W> w, int f, const X* x, const About*, int D) {
    float sums[Panels<W>::step] = {}, sum = 0;
    for (int d = 0; d < D; d += Panels<W>::step) {
        const W* row = w.at(f / PANEL, f % PANEL, d);
#pragma omp simd
        for (int i = 0; i < Panels<W>::step; i++) sums[i] += wide(row[i]) * wide(x[d + i]);
    }
    for (float s : sums) sum += s;
    return sum;
}

// out[t][f] = x[t] . w[f] for CHUNK rows of weights.
template <class W, class X> void product(Panels<W> w, const float* scale, Rows<X> x, int T, int D, float* out, int stride) {
    int t = 0;
    auto to = [&](int f) { return out + size_t(t) * stride + f; };
    if constexpr (std::is_same_v<X, fixed16>) {
#ifdef MULTIPLIES_INT8
        for (; t + 2 <= T; t += 2)
            for (int f = 0; f < CHUNK; f += PANEL)
                tile<1, 2>(w.from(f, D), scale + f, x.row(t, D), x.about + t, D, to(f), stride, Ahead(w.from(f + PANEL, D), D, t / 2, T / 2));
        for (; t < T; t++)
            for (int f = 0; f < CHUNK; f += 2 * PANEL)
                tile<2, 1>(w.from(f, D), scale + f, x.row(t, D), x.about + t, D, to(f), stride, Ahead());
#endif
    } else {
#ifdef __AVX512F__
        for (; t + 4 <= T; t += 4)
            for (int f = 0; f < CHUNK; f += PANEL)
                tile<1, 4>(w.from(f, D), x.row(t, D), D, to(f), stride, Ahead(w.from(f + PANEL, D), D, t / 4, T / 4));
        for (; t < T; t++) tile<4, 1>(w, x.row(t, D), D, to(0), stride, Ahead());
#else
        for (; t < T; t++)
            for (int f = 0; f < CHUNK; f++) *to(f) = dot(w, f, x.row(t, D), x.about + t, D);
#endif
        if constexpr (std::is_same_v<W, int8_t>)
            for (t = 0; t < T; t++)
                for (int f = 0; f < CHUNK; f++) *to(f) *= scale[f];
    }
}

#ifdef MULTIPLIES_TILES
constexpr int TILE = 16;  // rows of activations

// Weights for the processor's matrix unit: of each 64 bytes of CHUNK rows the first four of every row, then the next four.
template <class W> struct Tiles {
    static constexpr int step = 64 / sizeof(W);
    const W* rows;
    static Tiles packed(const void* rows, int) { return {(const W*)rows}; }
    Tiles from(int f, int D) const { return {rows + size_t(f) * D}; }
    const W* at(int d) const { return rows + size_t(d) * CHUNK; }
};

// The unit as the products below need it: all eight tiles of sixteen rows of 64 bytes.
struct Unit {
    Unit() {
        struct alignas(64) {
            uint8_t palette = 1, more[15] = {};
            uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shape;
        _tile_loadconfig(&shape);
    }
    ~Unit() { _tile_release(); }
};

inline void empty() {  // the instructions are no expressions
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

// found[t][f] of N times TILE rows of activations.
template <int N> inline void tiles(Tiles<bf16> w, const bf16* x, const int D, float* found) {
    const size_t next = size_t(TILE) * D;
    empty();
    for (int d = 0; d < D; d += w.step, x += w.step) {
        _tile_loadd(7, w.at(d), 64);
        _tile_loadd(4, x, 2 * D);
        _tile_dpbf16ps(0, 4, 7);
        if constexpr (N > 1) {
            _tile_loadd(5, x + next, 2 * D);
            _tile_dpbf16ps(1, 5, 7);
        }
        if constexpr (N > 2) {
            _tile_loadd(6, x + 2 * next, 2 * D);
            _tile_dpbf16ps(2, 6, 7);
        }
        if constexpr (N > 3) {
            _tile_loadd(4, x + 3 * next, 2 * D);
            _tile_dpbf16ps(3, 4, 7);
        }
    }
    _tile_stored(0, found, 64);
    if constexpr (N > 1) _tile_stored(1, found + TILE * CHUNK, 64);
    if constexpr (N > 2) _tile_stored(2, found + 2 * TILE * CHUNK, 64);
    if constexpr (N > 3) _tile_stored(3, found + 3 * TILE * CHUNK, 64);
}

// The same of the high halves, and of the low ones behind all of them.
template <int N> inline void tiles(Tiles<int8_t> w, const fixed16* rows, const int D, int32_t* found) {
    const int8_t* x = (const int8_t*)rows;
    const size_t next = size_t(2) * TILE * D;
    empty();
    for (int d = 0; d < D; d += w.step, x += w.step) {
        _tile_loadd(7, w.at(d), 64);
        _tile_loadd(4, x, 2 * D);
        _tile_dpbssd(0, 4, 7);
        _tile_loadd(5, x + D, 2 * D);
        _tile_dpbssd(1, 5, 7);
        if constexpr (N > 1) {
            _tile_loadd(6, x + next, 2 * D);
            _tile_dpbssd(2, 6, 7);
            _tile_loadd(4, x + next + D, 2 * D);
            _tile_dpbssd(3, 4, 7);
        }
    }
    _tile_stored(0, found, 64);
    _tile_stored(1, found + N * TILE * CHUNK, 64);
    if constexpr (N > 1) {
        _tile_stored(2, found + TILE * CHUNK, 64);
        _tile_stored(3, found + (N + 1) * TILE * CHUNK, 64);
    }
}

// Activations are read to the end of the last tile; what lies behind the last row does not matter.
template <class W, class X> void product(Tiles<W> w, const float* scale, Rows<X> x, int T, int D, float* out, int stride) {
    constexpr bool bytes = std::is_same_v<X, fixed16>;
    alignas(64) std::conditional_t<bytes, int32_t, float> found[4 * TILE * CHUNK];
    for (int t = 0, n; t < T; t += n * TILE) {
        const X* rows = x.row(t, D);
        n = std::min((T - t + TILE - 1) / TILE, bytes ? 2 : 4);
        if (n == 1) tiles<1>(w, rows, D, found);
        if (n == 2) tiles<2>(w, rows, D, found);
        if constexpr (!bytes) {
            if (n == 3) tiles<3>(w, rows, D, found);
            if (n == 4) tiles<4>(w, rows, D, found);
        }
        for (int i = 0; i < std::min(n * TILE, T - t); i++)
            for (int f = 0; f < CHUNK; f++) {
                float& to = out[size_t(t + i) * stride + f];
                if constexpr (bytes)
                    to = (256.0f * found[i * CHUNK + f] + found[(n * TILE + i) * CHUNK + f]) * (x.about[t + i].scale * scale[f]);
                else
                    to = found[i * CHUNK + f];
            }
    }
}

template <class W> using Weights = std::conditional_t<std::is_same_v<W, float>, Panels<W>, Tiles<W>>;
constexpr int whole(int T) { return (T + TILE - 1) / TILE * TILE; }
#else
struct Unit {
    ~Unit() {}
};
template <class W> using Weights = Panels<W>;
constexpr int whole(int T) { return T; }
#endif

// out[r] += the sum of n values v, weighed by the shares of row r.
template <int RS, class C> void weigh(const float* shares, int stride, const C* v, int n, int H, float* out) {
#ifdef __AVX512F__
    for (int h = 0; h < H; h += 32) {
        __m512 sum[RS][2];
        for (int r = 0; r < RS; r++)
            for (int i = 0; i < 2; i++) sum[r][i] = _mm512_loadu_ps(out + r * H + h + 16 * i);
        for (int p = 0; p < n; p++) {
            __m512 first = load(v + size_t(p) * H + h), second = load(v + size_t(p) * H + h + 16);
#pragma GCC unroll 4
            for (int r = 0; r < RS; r++) {
                __m512 share = _mm512_set1_ps(shares[size_t(r) * stride + p]);
                sum[r][0] = _mm512_fmadd_ps(share, first, sum[r][0]);
                sum[r][1] = _mm512_fmadd_ps(share, second, sum[r][1]);
            }
        }
        for (int r = 0; r < RS; r++)
            for (int i = 0; i < 2; i++) _mm512_storeu_ps(out + r * H + h + 16 * i, sum[r][i]);
    }
#else
    for (int p = 0; p < n; p++)
        for (int r = 0; r < RS; r++) {
            float share = shares[size_t(r) * stride + p];
#pragma omp simd
            for (int h = 0; h < H; h++) out[r * H + h] += share * wide(v[size_t(p) * H + h]);
        }
#endif
}

void norm(const float* x, const float* weight, float epsilon, int D, float* out) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int d = 0; d < D; d++) sum += x[d] * x[d];
    float inverse = 1.0f / std::sqrt(sum / D + epsilon);
    for (int d = 0; d < D; d++) out[d] = x[d] * inverse * weight[d];
}

template <class X> void rotate(const float* x, const float* cos, const float* sin, int width, X* out) {
    int half = width / 2;
    for (int i = 0; i < half; i++) narrow(x[i] * cos[i] - x[i + half] * sin[i], out[i]);
    for (int i = 0; i < half; i++) narrow(x[i + half] * cos[i] + x[i] * sin[i], out[i + half]);
}

}  // namespace

extern "C" {

struct Matrix {
    const void* rows;
    const float* scales;  // of int8
};

struct Layer {
    Matrix query, key, value, output, gate, up, down;
    const float *attention_norm, *feed_forward_norm;
};

struct Shape {
    int32_t d, heads, groups, width, feed_forward, kind;  // of weights: 0 fp32, 1 bf16, 2 int8
    float epsilon;
    int32_t threads;
};

struct Cache {
    void *keys, *values;  // of this layer, (groups, places, width)
    int64_t places;
    int32_t size, most;       // tokens of a block, blocks of a row of the table
    const int32_t* table;     // blocks of each text
    const int32_t* text;      // of each row
    const int32_t* position;  // of each row
};

}

namespace {

// Memory that grows as needed, and begins where a cache line does.
template <class T> struct Room {
    std::vector<char> memory;
    T* of(size_t n) {
        if (memory.size() < n * sizeof(T) + 64) memory.resize(n * sizeof(T) + 64);
        return (T*)((uintptr_t(memory.data()) + 63) & ~uintptr_t(63));
    }
};

template <class W> void layer_of(const Shape& s, const Layer& layer, const Cache& cache, int T, float* x, const float* cos, const float* sin) {
    using X = typename Beside<W>::X;
    using C = typename Beside<W>::Cache;
    using Q = typename Beside<C>::X;
    const int D = s.d, H = s.width, F = s.feed_forward, R = s.heads / s.groups, NH = s.heads * H, GH = s.groups * H, P = NH + 2 * GH;
    static thread_local Room<float> for_projected, for_attended, for_active;  // of the thread that asks
    static thread_local Room<X> for_given;
    static thread_local Room<Q> for_queries;
    static thread_local Room<About> for_about;
    float *projected = for_projected.of(size_t(T) * P), *attended = for_attended.of(size_t(T) * NH), *active = for_active.of(size_t(T) * F);
    X* given = for_given.of(size_t(whole(T)) * std::max({D, NH, F}));
    Q* queries = for_queries.of(size_t(T) * NH);
    About* about = for_about.of(T);
    C *keys = (C*)cache.keys, *values = (C*)cache.values;
    const Rows<X> rows{given, about};

#pragma omp parallel num_threads(s.threads)
    {
        Unit unit;
        Room<float> for_parts, for_scores;
        float *part = for_parts.of(size_t(2) * std::max(T * CHUNK, D)), *other = part + T * CHUNK;
        auto packed = [](const Matrix& m, int f, int width) { return Weights<W>::packed(m.rows, width).from(f, width); };
        auto add = [&](const Matrix& m, int f, int width) {  // to x, columns f to f + CHUNK
            product(packed(m, f, width), m.scales + f, rows, T, width, part, CHUNK);
            for (int t = 0; t < T; t++)
                for (int i = 0; i < CHUNK; i++) x[size_t(t) * D + f + i] += part[t * CHUNK + i];
        };
        auto normed = [&](int t, const float* weight) {
            norm(x + size_t(t) * D, weight, s.epsilon, D, part);
            set(part, D, given + size_t(t) * D, about + t);
        };

#pragma omp for
        for (int t = 0; t < T; t++) normed(t, layer.attention_norm);

#pragma omp for schedule(dynamic, 4)
        for (int f = 0; f < P; f += CHUNK) {
            const Matrix& m = f < NH ? layer.query : f < NH + GH ? layer.key : layer.value;
            int at = f < NH ? f : f < NH + GH ? f - NH : f - NH - GH;
            product(packed(m, at, D), m.scales + at, rows, T, D, projected + f, P);
        }

#pragma omp for
        for (int t = 0; t < T; t++) {
            const float *row = projected + size_t(t) * P, *c = cos + size_t(t) * H / 2, *n = sin + size_t(t) * H / 2;
            for (int h = 0; h < s.heads; h++) rotate(row + h * H, c, n, H, queries + size_t(t) * NH + h * H);
            int position = cache.position[t], block = cache.table[size_t(cache.text[t]) * cache.most + position / cache.size];
            int64_t place = int64_t(block) * cache.size + position % cache.size;
            for (int g = 0; g < s.groups; g++) {
                size_t to = (g * cache.places + place) * H;
                rotate(row + NH + g * H, c, n, H, keys + to);
                for (int i = 0; i < H; i++) narrow(row[NH + GH + g * H + i], values[to + i]);
            }
        }

#pragma omp for schedule(dynamic)
        for (int i = 0; i < T * s.groups; i++) {
            int t = i / s.groups, g = i % s.groups, length = cache.position[t] + 1;
            const int32_t* blocks = cache.table + size_t(cache.text[t]) * cache.most;
            int count = (length + cache.size - 1) / cache.size, stride = count * cache.size;
            float* scores = for_scores.of(size_t(R) * stride);
            const size_t at = size_t(t) * NH + size_t(g) * R * H;
            for (int b = 0; b < count; b++) {
                const C* k = keys + (g * cache.places + int64_t(blocks[b]) * cache.size) * H;
                for (int p = 0; p < cache.size; p += CHUNK)
                    product(Panels<C>::plain(k + size_t(p) * H, H), nullptr, Rows<Q>{queries + at, nullptr}, R, H, scores + b * cache.size + p, stride);
            }
            const float scale = 1.0f / std::sqrt(float(H));
            for (int r = 0; r < R; r++) {
                float* row = &scores[size_t(r) * stride];
                float most = row[0], sum = 0;
#pragma omp simd reduction(max : most)
                for (int p = 0; p < length; p++) most = std::max(most, row[p]);
#pragma omp simd reduction(+ : sum)
                for (int p = 0; p < length; p++) sum += row[p] = exponential((row[p] - most) * scale);
                float inverse = 1.0f / sum;
                for (int p = 0; p < length; p++) row[p] *= inverse;
            }
            float* out = attended + at;
            std::fill(out, out + R * H, 0.0f);
            for (int b = 0; b < count; b++) {
                const C* v = values + (g * cache.places + int64_t(blocks[b]) * cache.size) * H;
                int n = std::min(cache.size, length - b * cache.size), r = 0;
                const float* shares = scores + b * cache.size;
                for (; r + 4 <= R; r += 4) weigh<4>(shares + size_t(r) * stride, stride, v, n, H, out + r * H);
                for (; r < R; r++) weigh<1>(shares + size_t(r) * stride, stride, v, n, H, out + r * H);
            }
        }

#pragma omp for
        for (int t = 0; t < T; t++) set(attended + size_t(t) * NH, NH, given + size_t(t) * NH, about + t);

#pragma omp for schedule(dynamic, 4)
        for (int f = 0; f < D; f += CHUNK) add(layer.output, f, NH);

#pragma omp for
        for (int t = 0; t < T; t++) normed(t, layer.feed_forward_norm);

#pragma omp for schedule(dynamic, 4)
        for (int f = 0; f < F; f += CHUNK) {
            product(packed(layer.gate, f, D), layer.gate.scales + f, rows, T, D, part, CHUNK);
            product(packed(layer.up, f, D), layer.up.scales + f, rows, T, D, other, CHUNK);
            for (int t = 0; t < T; t++)
                for (int i = 0; i < CHUNK; i++) {
                    float gate = part[t * CHUNK + i], e = exponential(-std::fabs(gate));  // of the side that does not overflow
                    active[size_t(t) * F + f + i] = gate * (gate < 0 ? e : 1.0f) / (1.0f + e) * other[t * CHUNK + i];
                }
        }

#pragma omp for
        for (int t = 0; t < T; t++) set(active + size_t(t) * F, F, given + size_t(t) * F, about + t);

#pragma omp for schedule(dynamic, 4)
        for (int f = 0; f < D; f += CHUNK) add(layer.down, f, F);
    }
}

template <class W> void linear_of(const Matrix& m, int F, int D, int threads, const float* x, int T, float* out) {
    using X = typename Beside<W>::X;
    Room<X> for_given;
    Room<About> for_about;
    X* given = for_given.of(size_t(whole(T)) * D);
    About* about = for_about.of(T);
    for (int t = 0; t < T; t++) set(x + size_t(t) * D, D, given + size_t(t) * D, about + t);
#pragma omp parallel num_threads(threads)
    {
        Unit unit;
#pragma omp for schedule(dynamic, 4)
        for (int f = 0; f < F; f += CHUNK)
            product(Weights<W>::packed(m.rows, D).from(f, D), m.scales + f, Rows<X>{given, about}, T, D, out + f, F);
    }
}

}  // namespace

extern "C" {

// Whether this process may use what the kernel was compiled for.
int ready() {
#ifdef MULTIPLIES_TILES
    return !syscall(SYS_arch_prctl, 0x1023, 18);  // ARCH_REQ_XCOMP_PERM for the tiles' data
#else
    return 1;
#endif
}

// Rows of so many bytes, in panels or tiles; what lies behind the last row stays as it is.
void pack(const char* rows, int F, int64_t bytes, int kind, int threads, char* out) {
#ifdef MULTIPLIES_TILES
    const int high = kind ? CHUNK : PANEL, piece = kind ? 4 : 64;
#else
    const int high = PANEL, piece = 64;
#endif
#pragma omp parallel for num_threads(threads)
    for (int f = 0; f < F; f += high)
        for (int64_t b = 0; b < bytes; b += piece)
            for (int i = 0; i < std::min(high, F - f); i++)
                std::memcpy(out + f * bytes + b * high + i * piece, rows + (f + i) * bytes + b, piece);
}

// x (T, d) becomes what the layer makes of it; cos and sin are (T, width / 2). Later rows of a text attend to the earlier ones.
void layer(const Shape* s, const Layer* l, const Cache* c, int T, float* x, const float* cos, const float* sin) {
    for (int t = 0; t < T; t += AT_ONCE) {
        Cache cache = *c;
        cache.text += t, cache.position += t;
        const int n = std::min(AT_ONCE, T - t), half = s->width / 2;
        auto go = [&](auto layer_of) { layer_of(*s, *l, cache, n, x + size_t(t) * s->d, cos + size_t(t) * half, sin + size_t(t) * half); };
        if (s->kind == 0) go(layer_of<float>);
        if (s->kind == 1) go(layer_of<bf16>);
        if (s->kind == 2) go(layer_of<int8_t>);
    }
}

// out (T, F) = x (T, D) times m (F, D) transposed; F in whole chunks.
void linear(const Matrix* m, int kind, int F, int D, int threads, const float* x, int T, float* out) {
    for (int t = 0; t < T; t += AT_ONCE) {
        auto go = [&](auto linear_of) { linear_of(*m, F, D, threads, x + size_t(t) * D, std::min(AT_ONCE, T - t), out + size_t(t) * F); };
        if (kind == 0) go(linear_of<float>);
        if (kind == 1) go(linear_of<bf16>);
        if (kind == 2) go(linear_of<int8_t>);
    }
}
}
