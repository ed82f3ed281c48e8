#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#define ROWS 4
/* bits of codes: plane k of row r, word w */
void pack_codes(const float *codes, uint64_t *planes, long rows, long inputs, long words, int bits, float low, float step) {
  #pragma omp parallel for
  for (long r = 0; r < rows; r++) {
    const float *row = codes + r * inputs;
    for (long w = 0; w < words; w++) {
      uint64_t out[8] = {0};
      long end = inputs - 64 * w < 64 ? inputs - 64 * w : 64;
      for (long i = 0; i < end; i++) {
        uint64_t u = (uint64_t)(int)((row[64 * w + i] - low) / step + 0.5f);
        for (int k = 0; k < bits; k++) out[k] |= ((u >> k) & 1) << i;
      }
      for (int k = 0; k < bits; k++) planes[(k * rows + r) * words + w] = out[k];
    }
  }
}
#define TILE 16
#define VECTORS (TILE / 8)
typedef uint64_t vector __attribute__((vector_size(64)));
#ifdef __AVX512VPOPCNTDQ__
#include <immintrin.h>
static inline vector counts(vector x) { return (vector)_mm512_popcnt_epi64((__m512i)x); }
#else
static inline vector counts(vector x) { for (int i = 0; i < 8; i++) x[i] = __builtin_popcountll(x[i]); return x; }
#endif
/* y[r, o] = low * sum_w[o] + step * sum_k 2^k (2 popcount(x_k & w_o) - popcount(x_k)); weights in tiles: [outputs / TILE][words][TILE] */
void multiply(const uint64_t *planes, const uint64_t *weights, const int64_t *weight_sums, float *y, long rows, long outputs, long words, int bits, float low, float step) {
  #pragma omp parallel for
  for (long r0 = 0; r0 < rows; r0 += ROWS) {
    int n = rows - r0 < ROWS ? rows - r0 : ROWS;
    int64_t ones[8][ROWS] = {{0}};
    for (int k = 0; k < bits; k++)
      for (int j = 0; j < n; j++)
        for (long w = 0; w < words; w++) ones[k][j] += __builtin_popcountll(planes[(k * rows + r0 + j) * words + w]);
    for (long o0 = 0; o0 < outputs; o0 += TILE) {
      const uint64_t *tile = weights + o0 * words;
      int64_t total[ROWS][TILE] = {{0}};
      for (int k = 0; k < bits; k++) {
        const uint64_t *x[ROWS];
        for (int j = 0; j < ROWS; j++) x[j] = planes + (k * rows + r0 + (j < n ? j : 0)) * words;
        vector sums[ROWS][VECTORS] = {{{0}}};
        for (long w = 0; w < words; w++) {
          vector v[VECTORS];
          memcpy(v, tile + w * TILE, sizeof v);
          #pragma GCC unroll 8
          for (int j = 0; j < ROWS; j++) {
            #pragma GCC unroll 8
            for (int i = 0; i < VECTORS; i++) sums[j][i] += counts(v[i] & x[j][w]);
          }
        }
        int64_t acc[ROWS][TILE];
        memcpy(acc, sums, sizeof acc);
        for (int j = 0; j < n; j++)
          for (int o = 0; o < TILE; o++) total[j][o] += (2 * acc[j][o] - ones[k][j]) << k;
      }
      int m = outputs - o0 < TILE ? outputs - o0 : TILE;
      for (int j = 0; j < n; j++)
        for (int o = 0; o < m; o++) y[(r0 + j) * outputs + o0 + o] = low * weight_sums[o0 + o] + step * total[j][o];
    }
  }
}
