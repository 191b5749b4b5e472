// Terms, shingles, MinHash signatures and lines of texts in UTF-8. `shingles.py`, `minhash.py` and `lines.py` have the same in Python,
// equal to the last bit, and say what it means. Compiled when it is first needed.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr uint8_t JOINED = 1, ALONE = 2, BLANK = 4, LETTER = 8;  // of a character: part of a term, a term of its own; of a line's

constexpr uint64_t P1 = 0x9E3779B185EBCA87, P2 = 0xC2B2AE3D27D4EB4F, P3 = 0x165667B19E3779F9, P4 = 0x85EBCA77C2B2AE63,
                   P5 = 0x27D4EB2F165667C5;  // xxHash's primes

inline uint64_t turned(uint64_t x, int by) { return (x << by) | (x >> (64 - by)); }

template <class T>
inline uint64_t read(const uint8_t* p) {
    T x;
    std::memcpy(&x, p, sizeof x);
    return x;
}

inline uint64_t lane(uint64_t sum, uint64_t x) { return turned(sum + x * P2, 31) * P1; }

uint64_t xxh64(const uint8_t* p, size_t n, uint64_t seed) {
    const uint8_t* end = p + n;
    uint64_t h = seed + P5;
    if (n >= 32) {
        uint64_t sums[4] = {seed + P1 + P2, seed + P2, seed, seed - P1};
        for (; end - p >= 32; p += 32)
            for (int i = 0; i < 4; i++) sums[i] = lane(sums[i], read<uint64_t>(p + 8 * i));
        h = turned(sums[0], 1) + turned(sums[1], 7) + turned(sums[2], 12) + turned(sums[3], 18);
        for (uint64_t sum : sums) h = (h ^ lane(0, sum)) * P1 + P4;
    }
    h += n;
    for (; end - p >= 8; p += 8) h = turned(h ^ lane(0, read<uint64_t>(p)), 27) * P1 + P4;
    if (end - p >= 4) {
        h = turned(h ^ read<uint32_t>(p) * P1, 23) * P2 + P3;
        p += 4;
    }
    for (; p < end; p++) h = turned(h ^ *p * P5, 11) * P1;
    h = (h ^ h >> 33) * P2;
    h = (h ^ h >> 29) * P3;
    return h ^ h >> 32;
}

constexpr uint64_t MULTIPLIER = 0x9E3779B97F4A7C15;

inline uint64_t mixed(uint64_t x) {  // splitmix64's finaliser
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

// A character that is not ASCII, and where the next one begins. What is no UTF-8 is read as some character or other, within bounds.
inline uint32_t decoded(const uint8_t*& p, const uint8_t* end) {
    uint32_t c = *p++;
    int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : c >= 0xC0 ? 1 : 0;
    c &= 0x3F >> more;
    for (; more && p < end; more--) c = c << 6 | (*p++ & 0x3F);
    return c < 0x110000 ? c : 0xFFFD;
}

inline void append(std::vector<uint8_t>& text, uint32_t c) {
    if (c < 0x80) {
        text.push_back(uint8_t(c));
    } else if (c < 0x800) {
        text.insert(text.end(), {uint8_t(0xC0 | c >> 6), uint8_t(0x80 | (c & 0x3F))});
    } else if (c < 0x10000) {
        text.insert(text.end(), {uint8_t(0xE0 | c >> 12), uint8_t(0x80 | (c >> 6 & 0x3F)), uint8_t(0x80 | (c & 0x3F))});
    } else {
        text.insert(text.end(), {uint8_t(0xF0 | c >> 18), uint8_t(0x80 | (c >> 12 & 0x3F)), uint8_t(0x80 | (c >> 6 & 0x3F)),
                                 uint8_t(0x80 | (c & 0x3F))});
    }
}

}  // namespace

extern "C" {

struct Tables {
    const uint8_t* kinds;    // of every code point, or of ASCII's where all text is
    const uint16_t* folded;  // of every code point: 0, or the row of what it folds to
    const uint32_t* folds;   // rows of three code points, 0 behind the last; null where case counts
};

}

namespace {

struct Words {
    Tables tables;
    std::vector<uint8_t> lower, term;  // the text with ASCII folded; a term that is not ASCII alone
    std::vector<uint64_t> hashes;

    explicit Words(const Tables& given) : tables(given) {}

    void end_term() {
        if (!term.empty()) hashes.push_back(xxh64(term.data(), term.size(), 0));
        term.clear();
    }

    void add(uint32_t c) {
        uint8_t kind = tables.kinds[c];
        if (kind & JOINED) return append(term, c);
        end_term();
        if (kind & ALONE) {
            append(term, c);
            end_term();
        }
    }

    // Leaves the hashes of the text's terms.
    void read(const uint8_t* begin, const uint8_t* end) {
        hashes.clear();
        term.clear();
        lower.assign(begin, end);  // all at once: a word read right behind single bytes written would wait for them
        if (tables.folds)
            for (uint8_t& c : lower) c = uint8_t(c + (uint8_t(c - 'A') < 26) * 32);
        const uint8_t* p = lower.data();
        end = p + lower.size();
        while (p < end) {
            if (*p < 0x80) {
                const uint8_t* word = p;
                while (p < end && *p < 0x80 && (tables.kinds[*p] & JOINED)) p++;
                if (term.empty() && (p == end || *p < 0x80)) {
                    if (p > word) hashes.push_back(xxh64(word, size_t(p - word), 0));
                } else {
                    term.insert(term.end(), word, p);
                }
                if (p < end && *p < 0x80) add(*p++);
                continue;
            }
            uint32_t c = decoded(p, end);
            uint16_t row = tables.folds ? tables.folded[c] : 0;
            if (!row) {
                add(c);
            } else {
                for (const uint32_t* f = tables.folds + 3 * row; f < tables.folds + 3 * row + 3 && *f; f++) add(*f);
            }
        }
        end_term();
    }

    // Makes shingles of the terms, in place.
    void shingle(size_t width) {
        width = std::min(width, hashes.size());
        if (!width) return;
        uint64_t of_first = 1, total = 0;  // what the first of `width` terms is multiplied by
        for (size_t i = 0; i + 1 < width; i++) {
            of_first *= MULTIPLIER;
            total = total * MULTIPLIER + hashes[i];
        }
        size_t n = hashes.size() - width + 1;
        for (size_t i = 0; i < n; i++) {
            total = total * MULTIPLIER + hashes[i + width - 1];
            uint64_t gone = hashes[i] * of_first;
            hashes[i] = mixed(total);
            total -= gone;
        }
        hashes.resize(n);
    }
};

typedef uint32_t Lanes __attribute__((vector_size(64)));  // which a compiler splits where registers are narrower
constexpr int WIDTH = sizeof(Lanes) / 4, MOST = 8;        // numbers in each, and how many of them stay in registers

// N times WIDTH permutations.
template <int N>
void minima(const uint32_t* x, size_t n, const Lanes* a, const Lanes* b, Lanes* out) {
    Lanes least[N], times[N], plus[N];
    for (int j = 0; j < N; j++) least[j] = ~Lanes{}, times[j] = a[j], plus[j] = b[j];
    for (size_t i = 0; i < n; i++)
        for (int j = 0; j < N; j++) {
            Lanes y = times[j] * x[i] + plus[j];
            least[j] = y < least[j] ? y : least[j];
        }
    for (int j = 0; j < N; j++) out[j] = least[j];
}

template <int N = MOST>
void minima_of(int wanted, const uint32_t* x, size_t n, const Lanes* a, const Lanes* b, Lanes* out) {
    if constexpr (N > 1)
        if (wanted < N) return minima_of<N - 1>(wanted, x, n, a, b, out);
    minima<N>(x, n, a, b, out);
}

}  // namespace

extern "C" {

// Of each of n texts: its signature, two hashes of all its terms, and how many terms it has.
void signatures(const Tables* tables, const uint8_t* text, const int64_t* offsets, int64_t n, int32_t width, const uint32_t* a,
                const uint32_t* b, int32_t permutations, uint32_t* out, uint64_t* digests, int64_t* terms) {
    Words words(*tables);
    std::vector<uint32_t> upper;
    int vectors = (permutations + WIDTH - 1) / WIDTH;
    std::vector<Lanes> times(vectors), plus(vectors), least(vectors);
    std::memcpy(times.data(), a, 4 * size_t(permutations));
    std::memcpy(plus.data(), b, 4 * size_t(permutations));
    for (int64_t i = 0; i < n; i++) {
        words.read(text + offsets[i], text + offsets[i + 1]);
        terms[i] = int64_t(words.hashes.size());
        const uint8_t* all = reinterpret_cast<const uint8_t*>(words.hashes.data());
        for (uint64_t seed = 0; seed < 2; seed++) digests[2 * i + seed] = xxh64(all, 8 * words.hashes.size(), seed);
        words.shingle(size_t(width));
        upper.resize(words.hashes.size());
        std::transform(words.hashes.begin(), words.hashes.end(), upper.begin(), [](uint64_t x) { return uint32_t(x >> 32); });
        for (int at = 0; at < vectors; at += MOST)
            minima_of(std::min(vectors - at, MOST), upper.data(), upper.size(), &times[at], &plus[at], &least[at]);
        std::memcpy(out + i * permutations, least.data(), 4 * size_t(permutations));
    }
}

// The sorted distinct shingles of each of n texts behind each other, and where each text's end. Returns how many; above `room` none
// is written any more.
int64_t shingles(const Tables* tables, const uint8_t* text, const int64_t* offsets, int64_t n, int32_t width, int64_t room, uint64_t* out,
                 int64_t* ends) {
    Words words(*tables);
    int64_t written = 0;
    for (int64_t i = 0; i < n; i++) {
        words.read(text + offsets[i], text + offsets[i + 1]);
        words.shingle(size_t(width));
        auto& found = words.hashes;
        std::sort(found.begin(), found.end());
        found.erase(std::unique(found.begin(), found.end()), found.end());
        if (written + int64_t(found.size()) <= room) std::copy(found.begin(), found.end(), out + written);
        ends[i] = written += int64_t(found.size());
    }
    return written;
}

// How many numbers each of n pairs of sorted sets shares; set k lies from starts[k] to starts[k + 1].
void shared(const uint64_t* values, const int64_t* starts, const int64_t* left, const int64_t* right, int64_t n, int64_t* out) {
    for (int64_t i = 0; i < n; i++) {
        const uint64_t *a = values + starts[left[i]], *a_end = values + starts[left[i] + 1];
        const uint64_t *b = values + starts[right[i]], *b_end = values + starts[right[i] + 1];
        int64_t equal = 0;
        while (a < a_end && b < b_end) {
            uint64_t x = *a, y = *b;
            equal += x == y;
            a += x <= y;
            b += y <= x;
        }
        out[i] = equal;
    }
}

// Of the lines of n texts that are not blank: a hash of each, blanks inside it as one and none around it, with its text's seed, and its
// letters and digits. Returns how many; `most` are written.
int64_t lines(const Tables* tables, const uint8_t* text, const int64_t* offsets, int64_t n, const uint64_t* seeds, int64_t most,
              uint64_t* keys, int32_t* sizes, int64_t* ends) {
    std::vector<uint8_t> line;
    int64_t written = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *p = text + offsets[i], *end = text + offsets[i + 1];
        while (p < end) {
            line.clear();
            bool blank = false;
            int32_t size = 0;
            while (p < end && *p != '\n') {
                const uint8_t* begin = p;
                uint32_t c = *p < 0x80 ? *p++ : decoded(p, end);
                uint8_t kind = tables->kinds[c];
                if (kind & BLANK) {
                    blank = !line.empty();
                    continue;
                }
                if (blank) line.push_back(' ');
                blank = false;
                size += (kind & LETTER) != 0;
                line.insert(line.end(), begin, p);
            }
            p++;
            if (line.empty()) continue;
            if (written < most) {
                keys[written] = xxh64(line.data(), line.size(), seeds[i]);
                sizes[written] = size;
            }
            written++;
        }
        ends[i] = written;
    }
    return written;
}
}
