/* Products of few bits with one bit: rows of whole numbers, low + step * u with u of 1 to 8 bits, times rows of +-1.

   sum_i (low + step u_i) w_i = low S + step sum_k 2^k (2 count(u_k & w) - count(u_k)),   S = sum_i w_i

   with u_k the k-th bits of a row as words of 64, w the positive weights likewise, count the bits that are set. All in
   whole numbers, so nothing is rounded before the last conversion to float. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512VPOPCNTDQ__)
#include <immintrin.h>
#define WIDE 1
#else
#define WIDE 0
#endif

enum { ROWS = 4, TILE = 16, MOST_BITS = 8 };

/* What a row is quantized with: u = round(clip(x / scale - offset, low, high)) - low, or for {-1, 1} whether
   x / scale - offset >= 0; in the same steps of float32 as torch takes. */
typedef struct {
  float offset, scale, low, high;
  int bits, is_sign;
} quantizer;

static uint64_t quantized(float value, const quantizer *q) {
  float t = value / q->scale - q->offset;
  if (q->is_sign) return t >= 0.0f;
  t = t > q->low ? (t < q->high ? t : q->high) : q->low; /* NaN becomes low, as no whole number is NaN */
  return (uint64_t)(int)(rintf(t) - q->low);
}

/* One word of each bit of 64 numbers; those beyond `end` are 0. */
static void pack_word(const float *values, long end, uint64_t *words, const quantizer *q) {
  for (int k = 0; k < q->bits; k++) words[k] = 0;
#if WIDE
  /* a whole word of one bit: each of four comparisons of 16 numbers gives 16 bits */
  if (q->bits == 1 && end == 64) {
    const __m512 offset = _mm512_set1_ps(q->offset), scale = _mm512_set1_ps(q->scale);
    const __m512 zero = _mm512_setzero_ps(), half = _mm512_set1_ps(0.5f); /* of {0, 1} a half becomes 0 */
    for (int i = 0; i < 4; i++) {
      const __m512 t = _mm512_sub_ps(_mm512_div_ps(_mm512_loadu_ps(values + 16 * i), scale), offset);
      const __mmask16 set = q->is_sign ? _mm512_cmp_ps_mask(t, zero, _CMP_GE_OQ) : _mm512_cmp_ps_mask(t, half, _CMP_GT_OQ);
      words[0] |= (uint64_t)set << (16 * i);
    }
    return;
  }
#endif
  /* bit k of number i becomes bit i of word k */
  for (long i = 0; i < end; i++) {
    const uint64_t u = quantized(values[i], q);
    for (int k = 0; k < q->bits; k++) words[k] |= ((u >> k) & 1) << i;
  }
}

/* values (rows, inputs) -> planes (bits, rows, words), and of each row 0, or NaN where one of its values is NaN */
void pack_values(const float *values, uint64_t *planes, float *spoilt, long rows, long inputs, int bits, int is_sign,
                 float low, float high, float offset, float scale) {
  const quantizer q = {offset, scale, low, high, bits, is_sign};
  const long words = (inputs + 63) / 64;
#pragma omp parallel for
  for (long r = 0; r < rows; r++) {
    int is_spoilt = 0;
    /* only NaN differs from itself; u has no NaN, so the row's NaN travels beside it */
    for (long i = 0; i < inputs; i++) is_spoilt |= values[r * inputs + i] != values[r * inputs + i];
    spoilt[r] = is_spoilt ? NAN : 0.0f;
    for (long w = 0; w < words; w++) {
      uint64_t out[MOST_BITS];
      const long end = inputs - 64 * w < 64 ? inputs - 64 * w : 64;
      pack_word(values + r * inputs + 64 * w, end, out, &q);
      for (int k = 0; k < bits; k++) planes[(k * rows + r) * words + w] = out[k];
    }
  }
}

/* counts[j][o] = bits that x_j and weight o share, over all words, for ROWS rows and TILE outputs */
static void shared_bits(const uint64_t *const *x, const uint64_t *tile, long words, int64_t counts[ROWS][TILE]) {
#if WIDE
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
#pragma GCC unroll 8
  for (int j = 0; j < ROWS; j++)
#pragma GCC unroll 8
    for (int i = 0; i < TILE / 8; i++) _mm512_storeu_si512(&counts[j][8 * i], sums[j][i]);
#else
  for (int o = 0; o < TILE; o++) {
    int64_t sums[ROWS] = {0};
    for (long w = 0; w < words; w++) {
      const uint64_t v = tile[w * TILE + o];
#pragma GCC unroll 8
      for (int j = 0; j < ROWS; j++) sums[j] += __builtin_popcountll(x[j][w] & v);
    }
    for (int j = 0; j < ROWS; j++) counts[j][o] = sums[j];
  }
#endif
}

/* planes (bits, rows, words), weights (outputs / TILE, words, TILE), sums of weights and bias (outputs)
   -> y (rows, outputs), products times scale plus bias, and NaN in spoilt rows */
void multiply_bits(const uint64_t *planes, const uint64_t *weights, const int64_t *weight_sums, const float *bias,
                   const float *spoilt, float *y, long rows, long outputs, long words, int bits, float low, float step,
                   float scale) {
#pragma omp parallel for
  for (long first = 0; first < rows; first += ROWS) {
    const int num_rows = rows - first < ROWS ? (int)(rows - first) : ROWS;
    /* bits of these rows, and count(u_k); missing rows of the last block repeat its first one */
    const uint64_t *x[MOST_BITS][ROWS];
    int64_t ones[MOST_BITS][ROWS];
    for (int k = 0; k < bits; k++)
      for (int j = 0; j < ROWS; j++) {
        x[k][j] = planes + (k * rows + first + (j < num_rows ? j : 0)) * words;
        ones[k][j] = 0;
        for (long w = 0; w < words; w++) ones[k][j] += __builtin_popcountll(x[k][j][w]);
      }
    for (long out = 0; out < outputs; out += TILE) {
      /* sum_k 2^k (2 count(u_k & w) - count(u_k)) of a tile of outputs */
      int64_t total[ROWS][TILE] = {{0}}, counts[ROWS][TILE];
      for (int k = 0; k < bits; k++) {
        shared_bits(x[k], weights + out * words, words, counts);
        for (int j = 0; j < num_rows; j++)
          for (int o = 0; o < TILE; o++) total[j][o] += (2 * counts[j][o] - ones[k][j]) << k;
      }
      /* weights fill up the last tile, bias and y do not: write no more than there are */
      const int num_outputs = outputs - out < TILE ? (int)(outputs - out) : TILE;
      for (int j = 0; j < num_rows; j++)
        for (int o = 0; o < num_outputs; o++)
          y[(first + j) * outputs + out + o] =
              (low * (float)weight_sums[out + o] + step * (float)total[j][o]) * scale + bias[out + o] +
              spoilt[first + j];
    }
  }
}
