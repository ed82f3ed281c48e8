/* Products of codes of few bits, low + step * u with u of 1, 2, 4 or 8 bits: with weights of +-1, and with each other.
   All are of whole numbers, so nothing is rounded before the last conversion to float.

   sum_i (low + step u_i) w_i = low S + step (2 T - U),   S = sum_i w_i,  U = sum_i u_i,  T = sum of u_i where w_i = 1

   T is looked up: 16 sums of four neighbours are a table of 16 bytes, and the bits of four weights choose one of them.
   Sums are of four bits of u, so u of 8 bits is looked up twice. u of one bit is counted, where 512 bits are at once. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSSE3__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512VPOPCNTDQ__)
#define COUNTS 1
#else
#define COUNTS 0
#endif

/* A vector is LANES times 16 bytes. REPEAT puts 16 bytes into each lane. Indices CHOOSE among the 16 bytes of a table in
   their lane; one of 128 gives 0. */
#if defined(__AVX512BW__)
#define LANES 4
#define REPEAT(lane) (vector) _mm512_broadcast_i32x4((__m128i)(lane))
#define CHOOSE(table, indices) (vector) _mm512_shuffle_epi8((__m512i)(table), (__m512i)(indices))
#elif defined(__AVX2__)
#define LANES 2
#define REPEAT(lane) (vector) _mm256_broadcastsi128_si256((__m128i)(lane))
#define CHOOSE(table, indices) (vector) _mm256_shuffle_epi8((__m256i)(table), (__m256i)(indices))
#elif defined(__SSSE3__)
#define LANES 1
#define REPEAT(lane) (vector)(lane)
#define CHOOSE(table, indices) (vector) _mm_shuffle_epi8((__m128i)(table), (__m128i)(indices))
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define LANES 1
#define REPEAT(lane) (vector)(lane)
#define CHOOSE(table, indices) (vector) vqtbl1q_u8((uint8x16_t)(table), (uint8x16_t)(indices))
#else
#define LANES 0
#endif

/* WORD inputs of TILE outputs lie together, in TILE_BYTES; GROUP inputs share a table, PIECE inputs have theirs at a time,
   of TABLES bytes a row; DIGIT bits of u are multiplied at a time */
enum { ROWS = 4, TILE = 16, WORD = 64, TILE_BYTES = 128, GROUP = 4, PIECE = 1024, TABLES = 4 * PIECE };
enum { DIGIT = LANES ? 4 : 8 };

#if LANES
typedef uint8_t vector __attribute__((vector_size(16 * LANES)));
typedef uint16_t pairs __attribute__((vector_size(16 * LANES)));
typedef uint16_t lane __attribute__((vector_size(16)));
typedef int32_t sums __attribute__((vector_size(32)));

static vector load(const void *address) {
  vector bytes;
  memcpy(&bytes, address, sizeof bytes);
  return bytes;
}

static vector low_half(vector bytes) { return bytes & 15; }
static vector high_half(vector bytes) { return (vector)((pairs)bytes >> 4) & 15; }
#endif

/* Codes are round(clip(x / scale - offset, low, high)), or for {-1, 1} the sign of x / scale - offset. */
typedef struct {
  float offset, scale, low, high;
  int is_sign;
} quantizer;

/* Whether u of these bits are packed as bits and counted; other ones are bytes. */
int counts_bits(int bits) { return bits == 1 && COUNTS; }

/* Codes of some values, in the same steps of float32 as torch takes; returns whether one of them is NaN. */
static int quantize(const float *values, float *codes, long count, quantizer q) {
  int is_spoilt = 0;
  for (long i = 0; i < count; i++) is_spoilt |= values[i] != values[i]; /* only NaN differs from itself */
  if (q.is_sign)
    for (long i = 0; i < count; i++) codes[i] = values[i] / q.scale - q.offset >= 0.0f ? 1.0f : -1.0f;
  else
    for (long i = 0; i < count; i++) {
      float t = values[i] / q.scale - q.offset;
      t = t > q.low ? t : q.low; /* NaN becomes low, as no whole number is NaN */
      codes[i] = rintf(t < q.high ? t : q.high);
    }
  return is_spoilt;
}

/* values (rows, inputs) -> u, as words of 64 bits that are counted, else as bytes, filled up with 0 to whole words; U of
   each row, and 0, or NaN where one of its values is NaN */
static void pack_values(const float *values, void *packed, int32_t *sums, float *spoilt, long rows, long inputs, int bits,
                        quantizer q) {
  const long words = (inputs + WORD - 1) / WORD;
#pragma omp parallel for
  for (long r = 0; r < rows; r++) {
    int32_t sum = 0;
    int is_spoilt = 0;
    for (long i = 0; i < inputs; i += PIECE) {
      float codes[PIECE];
      const long end = inputs - i < PIECE ? inputs - i : PIECE, filled = (end + WORD - 1) / WORD * WORD;
      is_spoilt |= quantize(values + r * inputs + i, codes, end, q);
      for (long c = end; c < filled; c++) codes[c] = q.low;
#if COUNTS
      for (long c = 0; c < filled && bits == 1; c += WORD) {
        uint64_t word = 0;
        for (int k = 0; k < WORD; k += 16)
          word |= (uint64_t)_mm512_cmp_ps_mask(_mm512_loadu_ps(codes + c + k), _mm512_setzero_ps(), _CMP_GT_OQ) << k;
        ((uint64_t *)packed)[r * words + (i + c) / WORD] = word;
        sum += __builtin_popcountll(word);
      }
#endif
      if (counts_bits(bits)) continue;
      uint8_t *out = (uint8_t *)packed + WORD * r * words + i;
      for (long c = 0; c < filled; c++) out[c] = (uint8_t)((int32_t)(codes[c] - q.low) >> q.is_sign);
      for (long c = 0; c < filled; c++) sum += out[c];
    }
    sums[r] = sum;
    spoilt[r] = is_spoilt ? NAN : 0.0f; /* u has no NaN, so the row's NaN travels beside it */
  }
}

#if COUNTS
/* totals[j][o] += bits that x_j and weight o share, for ROWS rows and TILE outputs */
static void count_shared(const uint64_t *const *x, const uint64_t *tile, long words, int32_t *const *totals) {
  /* ROWS * TILE / 8 registers of 8 counts each: weights that are loaded once serve all rows */
  __m512i sums[ROWS][TILE / 8];
#pragma GCC unroll 8
  for (int j = 0; j < ROWS; j++)
#pragma GCC unroll 8
    for (int i = 0; i < TILE / 8; i++) sums[j][i] = _mm512_setzero_si512();
  for (long w = 0; w < words; w++) {
    __m512i v[TILE / 8];
#pragma GCC unroll 8
    for (int i = 0; i < TILE / 8; i++) v[i] = _mm512_loadu_si512(tile + w * TILE + 8 * i);
#pragma GCC unroll 8
    for (int j = 0; j < ROWS; j++) {
      const __m512i row = _mm512_set1_epi64((long long)x[j][w]);
#pragma GCC unroll 8
      for (int i = 0; i < TILE / 8; i++)
        sums[j][i] = _mm512_add_epi64(sums[j][i], _mm512_popcnt_epi64(_mm512_and_si512(row, v[i])));
    }
  }
  for (int j = 0; j < ROWS; j++)
    for (int o = 0; o < TILE; o++) totals[j][o] += (int32_t)sums[j][o / 8][o % 8];
}
#endif

#if LANES
/* u -> for each four neighbours the sums of all their subsets, 16 bytes; of the four bits of u at `shift` */
static void make_tables(const uint8_t *u, uint8_t *tables, long words, int shift) {
  /* byte m of a table has neighbour k where bit k of m is set; an index of 128 gives 0 */
  _Alignas(64) uint8_t picks[GROUP][64];
  for (int k = 0; k < GROUP; k++)
    for (int i = 0; i < 64; i++) picks[k][i] = i >> k & 1 ? i / 16 * GROUP + k : 128;
  for (long i = 0; i < WORD * words; i += 16) {
    lane neighbours;
    memcpy(&neighbours, u + i, sizeof neighbours);
    const vector bytes = REPEAT(neighbours);
    const vector x = shift ? high_half(bytes) : low_half(bytes);
    for (size_t p = 0; p < 64; p += sizeof(vector)) {
      vector sum = CHOOSE(x, load(picks[0] + p));
#pragma GCC unroll 4
      for (int k = 1; k < GROUP; k++) sum += CHOOSE(x, load(picks[k] + p));
      memcpy(tables + GROUP * i + p, &sum, sizeof sum);
    }
  }
}

/* totals[j][o] += sums that the weights of o choose from the tables of row j, times 2^shift */
static void look_up(uint8_t (*tables)[TABLES], const uint8_t *tile, long words, int shift, int32_t *const *totals) {
  /* 16 bits hold the bytes of two outputs: added up as they are, and the second one's alone */
  pairs both[ROWS] = {0}, second[ROWS] = {0};
  for (long w = 0; w < words; w++)
    for (size_t p = 0; p < 64; p += sizeof(vector)) {
      const vector a = load(tile + TILE_BYTES * w + p), b = load(tile + TILE_BYTES * w + 64 + p);
      const vector a_low = low_half(a), a_high = high_half(a), b_low = low_half(b), b_high = high_half(b);
#pragma GCC unroll 8
      for (int j = 0; j < ROWS; j++) {
        const uint8_t *table = tables[j] + GROUP * WORD * w + p;
        /* four sums of four numbers below 16 fit a byte */
        const vector sum = (CHOOSE(load(table), a_low) + CHOOSE(load(table + 64), a_high)) +
                           (CHOOSE(load(table + 128), b_low) + CHOOSE(load(table + 192), b_high));
        both[j] += (pairs)sum;
        second[j] += (pairs)sum >> 8;
      }
    }
  /* PIECE inputs of at most 15 fit 16 bits; the first of two bytes is of outputs 0 to 7, the second of 8 to 15 */
#pragma GCC unroll 8
  for (int j = 0; j < ROWS; j++) {
    lane evens[LANES], odds[LANES];
    const pairs even = both[j] - (second[j] << 8);
    memcpy(evens, &even, sizeof evens);
    memcpy(odds, &second[j], sizeof odds);
#pragma GCC unroll 4
    for (int l = 1; l < LANES; l++) evens[0] += evens[l], odds[0] += odds[l];
    const lane halves[2] = {evens[0], odds[0]};
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
      sums total;
      memcpy(&total, totals[j] + i * TILE / 2, sizeof total);
      total += __builtin_convertvector(halves[i], sums) << shift;
      memcpy(totals[j] + i * TILE / 2, &total, sizeof total);
    }
  }
}
#else
/* totals[j][o] += u of row j where weight o is 1 */
static void add_chosen(const uint8_t *const *x, const uint8_t *tile, long words, int32_t *const *totals) {
  for (long w = 0; w < words; w++) {
    uint16_t sums[ROWS][TILE] = {{0}}; /* a word of numbers below 256 fits */
    for (int part = 0; part < TILE_BYTES / TILE; part++)
      for (int k = 0; k < 2 * GROUP; k++) {
        /* a byte has inputs 4 l to 4 l + 3, and above them those of 16 further on */
        const long input = WORD * w + part / 4 * 32 + k / GROUP * 16 + part % 4 * GROUP + k % GROUP;
        const uint8_t *bytes = tile + TILE_BYTES * w + TILE * part;
        uint16_t is_chosen[TILE];
        for (int o = 0; o < TILE; o++) is_chosen[o] = -(uint16_t)(bytes[o] >> k & 1);
#pragma GCC unroll 8
        for (int j = 0; j < ROWS; j++)
          for (int o = 0; o < TILE; o++) sums[j][o] += x[j][input] & is_chosen[o];
      }
    /* bytes 2 o and 2 o + 1 are of outputs o and o + 8 */
    for (int j = 0; j < ROWS; j++)
      for (int o = 0; o < TILE; o++) totals[j][o % 2 * TILE / 2 + o / 2] += sums[j][o];
  }
}
#endif

/* u as pack_values leaves it, weights (outputs / TILE, words, TILE_BYTES), low S and bias (outputs), U and spoilt (rows)
   -> y (rows, outputs), products times scale plus bias, and NaN in spoilt rows; space (rows / ROWS, ROWS, outputs) has
   whole tiles of outputs */
static void multiply_packed(const void *packed, const uint8_t *weights, const int32_t *low_sums, const float *bias,
                            const int32_t *sums, const float *spoilt, int32_t *space, float *y, long rows,
                            long outputs, long words, int bits, int step, float scale) {
  const long width = (outputs + TILE - 1) / TILE * TILE, row_bytes = words * (counts_bits(bits) ? 8 : WORD);
#pragma omp parallel for
  for (long first = 0; first < rows; first += ROWS) {
    const int num_rows = rows - first < ROWS ? (int)(rows - first) : ROWS;
    /* missing rows of the last block repeat its first one */
    const uint8_t *x[ROWS];
    for (int j = 0; j < ROWS; j++) x[j] = (const uint8_t *)packed + (first + (j < num_rows ? j : 0)) * row_bytes;
    memset(space + first * width, 0, ROWS * width * sizeof(int32_t));
    for (long w = 0; w < words; w += PIECE / WORD)
      for (int shift = 0; shift < bits; shift += DIGIT) {
        const long some = words - w < PIECE / WORD ? words - w : PIECE / WORD;
        const uint8_t *piece[ROWS];
        for (int j = 0; j < ROWS; j++) piece[j] = x[j] + w * (row_bytes / words);
#if LANES
        _Alignas(64) uint8_t tables[ROWS][TABLES];
        for (int j = 0; j < ROWS && !counts_bits(bits); j++) make_tables(piece[j], tables[j], some, shift);
#endif
        for (long out = 0; out < width; out += TILE) {
          const uint8_t *tile = weights + (out / TILE * words + w) * TILE_BYTES;
          int32_t *totals[ROWS];
          for (int j = 0; j < ROWS; j++) totals[j] = space + (first + j) * width + out;
#if COUNTS
          if (bits == 1) {
            count_shared((const uint64_t *const *)piece, (const uint64_t *)tile, some, totals);
            continue;
          }
#endif
#if LANES
          look_up(tables, tile, some, shift, totals);
#else
          add_chosen(piece, tile, some, totals);
#endif
        }
      }
    for (int j = 0; j < num_rows; j++) {
      const int32_t *totals = space + (first + j) * width, sum = sums[first + j];
      const float nan = spoilt[first + j];
      float *to = y + (first + j) * outputs;
      for (long o = 0; o < outputs; o++)
        to[o] = (float)(low_sums[o] + step * (2 * totals[o] - sum)) * scale + bias[o] + nan;
    }
  }
}

/* values (rows, inputs), weights (outputs / TILE, words, TILE_BYTES), low S and bias (outputs) -> y (rows, outputs), codes
   of the values times +-1, times scale, plus bias; returns whether there was memory for it */
int multiply_bits(const float *values, const uint8_t *weights, const int32_t *low_sums, const float *bias, float *y,
                  long rows, long inputs, long outputs, int bits, quantizer q, float scale) {
  const long words = (inputs + WORD - 1) / WORD, width = (outputs + TILE - 1) / TILE * TILE;
  const long filled = (rows + ROWS - 1) / ROWS * ROWS;
  /* u, U, NaN, and space for totals */
  void *packed = malloc(filled * (WORD * words + 8 + 4 * width) + 1);
  if (!packed) return 0;
  int32_t *sums = (int32_t *)((uint8_t *)packed + filled * WORD * words);
  float *spoilt = (float *)(sums + filled);
  pack_values(values, packed, sums, spoilt, rows, inputs, bits, q);
  multiply_packed(packed, weights, low_sums, bias, sums, spoilt, (int32_t *)(spoilt + filled), y, rows, outputs, words,
                  bits, q.is_sign ? 2 : 1, scale);
  free(packed);
  return 1;
}

/* Products of codes with codes: bytes of the left one, code - low, with codes of the right one. A panel of it has PANEL
   outputs and all inputs. With VNNI four inputs of an output lie together, and DOT_ROWS rows share what is loaded. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define DOT(sums, u, w) (vector) _mm512_dpbusd_epi32((__m512i)(sums), (__m512i)(u), (__m512i)(w))
enum { DOT_ROWS = 8 };
#elif defined(__AVXVNNI__) && !defined(__AVX512BW__)
#define DOT(sums, u, w) (vector) _mm256_dpbusd_avx_epi32((__m256i)(sums), (__m256i)(u), (__m256i)(w))
enum { DOT_ROWS = 2 };
#else
enum { DOT_ROWS = 1 };
#endif
enum { PANEL = 32 };
#ifdef DOT
typedef int8_t code;
typedef uint32_t fours __attribute__((vector_size(16 * LANES)));
#define PLACE(input, output, inputs) (((input) / GROUP * PANEL + (output)) * GROUP + (input) % GROUP)
#else
typedef int16_t code;
#define PLACE(input, output, inputs) ((output) * (inputs) + (input))
#endif

/* totals[j][o] = sum_i x_j[i] panel[i, o] */
static void multiply_codes(const uint8_t *x, const code *panel, long inputs, int32_t totals[DOT_ROWS][PANEL]) {
#ifdef DOT
  enum { PARTS = PANEL * GROUP / sizeof(vector) };
  vector found[DOT_ROWS][PARTS] = {0};
  for (long i = 0; i < inputs; i += GROUP) {
    vector w[PARTS];
#pragma GCC unroll 8
    for (int p = 0; p < PARTS; p++) w[p] = load(panel + i * PANEL + p * sizeof(vector));
#pragma GCC unroll 8
    for (int j = 0; j < DOT_ROWS; j++) {
      uint32_t four;
      memcpy(&four, x + j * inputs + i, sizeof four);
      const fours u = (fours){0} + four;
#pragma GCC unroll 8
      for (int p = 0; p < PARTS; p++) found[j][p] = DOT(found[j][p], u, w[p]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < DOT_ROWS; j++)
#pragma GCC unroll 8
    for (int p = 0; p < PARTS; p++) memcpy(totals[j] + PANEL / PARTS * p, &found[j][p], sizeof(vector));
#else
  for (int o = 0; o < PANEL; o++) {
    totals[0][o] = 0;
    for (long i = 0; i < inputs; i++) totals[0][o] += (int16_t)x[i] * panel[PLACE(i, o, inputs)];
  }
#endif
}

/* left (heads, rows, inputs) times right (heads, inputs, outputs), by heads of a batch -> y (heads, rows, outputs), products
   of codes times their scales and factor; codes of inputs that are not kept (batch, inputs) are 0. Strides are of batch, head, row, column;
   a row of left and y, and a row or a column of right, lies together. Returns whether it could: there was memory and no
   NaN. */
int multiply_heads(const float *left, const float *right, const uint8_t *kept, float *y, const long *sizes,
                   const long *left_strides, const long *right_strides, const long *y_strides, quantizer left_q,
                   quantizer right_q, float factor) {
  const float scale = left_q.scale * right_q.scale * factor;
  const long batch = sizes[0], heads = sizes[1], rows = sizes[2], inputs = sizes[3], outputs = sizes[4];
  const long depth = (inputs + GROUP - 1) / GROUP * GROUP, width = (outputs + PANEL - 1) / PANEL * PANEL;
  const long longest = depth > width ? depth : width, low = (long)left_q.low;
  int is_done = 1;
#pragma omp parallel for reduction(&& : is_done)
  for (long h = 0; h < batch * heads; h++) {
    const long b = h / heads, n = h % heads;
    /* low times the sums of the right one's columns, codes of a line, the panels, the same line in them, and u */
    int32_t *base = calloc(1, 4 * width + 4 * longest + (width * depth + longest) * sizeof(code) + DOT_ROWS * depth);
    is_done = is_done && base;
    if (!base) continue;
    float *codes = (float *)(base + width);
    code *panels = (code *)(codes + longest), *line = panels + width * depth;
    uint8_t *x = (uint8_t *)(line + longest);
    const int is_transposed = right_strides[2] == 1; /* an output's inputs lie together, else an input's outputs */
    for (long r = 0; r < (is_transposed ? outputs : inputs); r++) {
      const long count = is_transposed ? inputs : outputs;
      const float *from = right + b * right_strides[0] + n * right_strides[1] + r * right_strides[is_transposed ? 3 : 2];
      is_done &= !quantize(from, codes, count, right_q);
      for (long i = 0; i < count; i++) line[i] = (code)codes[i];
      for (long i = count; i < longest; i++) line[i] = 0;
      if (is_transposed) {
        for (long i = 0; i < inputs; i += GROUP)
          memcpy(panels + r / PANEL * PANEL * depth + PLACE(i, r % PANEL, depth), line + i, GROUP * sizeof(code));
        for (long i = 0; i < inputs; i++) base[r] += low * line[i];
      } else {
        for (long out = 0; out < width; out += PANEL)
          for (int o = 0; o < PANEL; o++) panels[out * depth + PLACE(r, o, depth)] = line[out + o];
        for (long o = 0; o < outputs; o++) base[o] += low * line[o];
      }
    }
    for (long first = 0; first < rows; first += DOT_ROWS) {
      const int num_rows = rows - first < DOT_ROWS ? (int)(rows - first) : DOT_ROWS;
      for (int j = 0; j < num_rows; j++) {
        const float *from = left + b * left_strides[0] + n * left_strides[1] + (first + j) * left_strides[2];
        is_done &= !quantize(from, codes, inputs, left_q);
        for (long i = 0; i < inputs; i++) x[j * depth + i] = (uint8_t)(int32_t)(codes[i] - left_q.low);
        for (long i = 0; i < inputs && kept; i++) x[j * depth + i] = kept[b * inputs + i] ? x[j * depth + i] : -low;
      }
      for (long out = 0; out < outputs; out += PANEL) {
        int32_t totals[DOT_ROWS][PANEL];
        multiply_codes(x, panels + out * depth, depth, totals);
        const long end = outputs - out < PANEL ? outputs - out : PANEL;
        for (int j = 0; j < num_rows; j++) {
          float *to = y + b * y_strides[0] + n * y_strides[1] + (first + j) * y_strides[2] + out;
          for (long o = 0; o < end; o++) to[o] = (float)(base[out + o] + totals[j][o]) * scale;
        }
      }
    }
    free(base);
  }
  return is_done;
}
