// One version of the products; compiled once for each kind of processor, with UNICHOIR_VERSION and its options.
//
// This file must not use inline functions of the standard library: the linker could choose this file's copy, with
// instructions that other processors don't have.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace kernels {
namespace UNICHOIR_VERSION {
namespace {

// Each version defines:
//   Code, kGroup   the type of a code, and how many adjacent codes one step multiplies: 4 bytes
//   kLanes, kVectors, kTile   columns in a vector, vectors of a panel, rows of a tile
//   stored(z), correction(z)  a code q is stored as q - stored(z), so that sums lack correction(z) * (sum of weights)
//   Sums, Bytes    vectors of sums, and of weights ready for a product
#if defined(UNICHOIR_AVX2)

// Without VNNI, products of 8-bit numbers are added in pairs in 16 bits, where they saturate. So both factors are
// widened to 16 bits, whose products are added in 32 bits. It is as fast, since only two of four units multiply.
using Code = int16_t;
constexpr int kGroup = 2, kLanes = 8, kVectors = 2, kTile = 6;
constexpr int32_t stored(int32_t zero) { return zero; }
constexpr int32_t correction(int32_t) { return 0; }
using Sums = __m256i;
using Bytes = __m256i;
inline Sums none() { return _mm256_setzero_si256(); }
inline Bytes load(const int8_t *w) { return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(w))); }
inline Bytes repeat(const Code *q) { return _mm256_set1_epi32(*reinterpret_cast<const int32_t *>(q)); }
inline Sums add_products(Sums sums, Bytes q, Bytes w) { return _mm256_add_epi32(sums, _mm256_madd_epi16(q, w)); }
inline void store(int32_t *to, Sums sums) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), sums); }

#elif defined(UNICHOIR_AVX512_VNNI)

using Code = uint8_t;
constexpr int kGroup = 4, kLanes = 16, kVectors = 2, kTile = 12;
constexpr int32_t stored(int32_t) { return 0; }
constexpr int32_t correction(int32_t zero) { return zero; }
using Sums = __m512i;
using Bytes = __m512i;
inline Sums none() { return _mm512_setzero_si512(); }
inline Bytes load(const int8_t *w) { return _mm512_loadu_si512(w); }
inline Bytes repeat(const Code *q) { return _mm512_set1_epi32(*reinterpret_cast<const int32_t *>(q)); }
inline Sums add_products(Sums sums, Bytes q, Bytes w) { return _mm512_dpbusd_epi32(sums, q, w); }
inline void store(int32_t *to, Sums sums) { _mm512_storeu_si512(to, sums); }

#elif defined(UNICHOIR_AVX_VNNI)

using Code = uint8_t;
constexpr int kGroup = 4, kLanes = 8, kVectors = 2, kTile = 6;
constexpr int32_t stored(int32_t) { return 0; }
constexpr int32_t correction(int32_t zero) { return zero; }
using Sums = __m256i;
using Bytes = __m256i;
inline Sums none() { return _mm256_setzero_si256(); }
inline Bytes load(const int8_t *w) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(w)); }
inline Bytes repeat(const Code *q) { return _mm256_set1_epi32(*reinterpret_cast<const int32_t *>(q)); }
inline Sums add_products(Sums sums, Bytes q, Bytes w) { return _mm256_dpbusd_avx_epi32(sums, q, w); }
inline void store(int32_t *to, Sums sums) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), sums); }

#elif defined(UNICHOIR_NEON)

// The product of these processors has two signed factors.
using Code = int8_t;
constexpr int kGroup = 4, kLanes = 4, kVectors = 4, kTile = 6;
constexpr int32_t stored(int32_t) { return 128; }
constexpr int32_t correction(int32_t zero) { return zero - 128; }
using Sums = int32x4_t;
using Bytes = int8x16_t;
inline Sums none() { return vdupq_n_s32(0); }
inline Bytes load(const int8_t *w) { return vld1q_s8(w); }
inline Bytes repeat(const Code *q) { return vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const int32_t *>(q))); }
inline Sums add_products(Sums sums, Bytes q, Bytes w) { return vdotq_s32(sums, q, w); }
inline void store(int32_t *to, Sums sums) { vst1q_s32(to, sums); }

#endif

constexpr int kPanel = kLanes * kVectors;
constexpr int kAhead = 2048; // bytes of weights to fetch before they are needed; they are larger than caches

int64_t groups(int64_t inputs) { return (inputs + kGroup - 1) / kGroup; }
int64_t code_bytes(int64_t inputs) { return groups(inputs) * kGroup * static_cast<int64_t>(sizeof(Code)); }
int64_t panel_bytes(int64_t inputs) { return groups(inputs) * kGroup * kPanel; }

// Packs kGroup rows of one panel, whose columns are adjacent.
inline void pack_group(const int8_t *__restrict row, int64_t stride, int8_t *__restrict to, int32_t *__restrict sum) {
#pragma omp simd
  for (int c = 0; c < kPanel; ++c) {
    int32_t total = 0;
#pragma GCC unroll 4
    for (int g = 0; g < kGroup; ++g) {
      const int8_t value = row[g * stride + c];
      to[c * kGroup + g] = value;
      total += value;
    }
    sum[c] += total;
  }
}

void pack(const int8_t *w, int64_t inputs, int64_t stride, const int32_t *columns, int64_t first, int64_t last,
          int8_t *packed, int32_t *sums) {
  for (int64_t panel = first; panel < last; ++panel) {
    const int32_t *column = columns + panel * kPanel;
    bool adjacent = column[0] >= 0;
    for (int c = 1; c < kPanel; ++c) adjacent = adjacent && column[c] == column[0] + c;
    int8_t *to = packed + panel * panel_bytes(inputs);
    int32_t sum[kPanel] = {};
    for (int64_t k = 0; k < inputs; k += kGroup, to += kGroup * kPanel) {
      if (adjacent && k + kGroup <= inputs) {
        pack_group(w + k * stride + column[0], stride, to, sum);
        continue;
      }
      for (int c = 0; c < kPanel; ++c)
        for (int g = 0; g < kGroup; ++g) {
          const int8_t value = column[c] >= 0 && k + g < inputs ? w[(k + g) * stride + column[c]] : 0;
          to[c * kGroup + g] = value;
          sum[c] += value;
        }
    }
    for (int c = 0; c < kPanel; ++c) sums[panel * kPanel + c] = sum[c];
  }
}

struct Coding {
  int32_t zero;
  float peak_to_scale;
  float least_peak;
};

// As in quantize.py: ZERO_POINT, peak_to_scale and least_peak.
Coding coding(Codes codes) {
  switch (codes) {
  case Codes::kSwish: return {64, 1.0f / 191, 0.27847f * 191 / 64};
  case Codes::kGelu: return {48, 1.0f / 207, 0.16998f * 207 / 48};
  case Codes::kRelu: return {0, 1.0f / 255, 1e-20f};
  default: return {128, 1.0f / 127, 1e-20f};
  }
}

void quantize(const float *__restrict x, int64_t inputs, Codes codes, void *code, float *scale) {
  const Coding given = coding(codes);
  float peak = given.least_peak;
  if (codes == Codes::kSymmetric) {
#pragma omp simd reduction(max : peak)
    for (int64_t k = 0; k < inputs; ++k) {
      const float value = __builtin_fabsf(x[k]);
      peak = value > peak ? value : peak;
    }
  } else {
#pragma omp simd reduction(max : peak)
    for (int64_t k = 0; k < inputs; ++k) peak = x[k] > peak ? x[k] : peak;
  }
  const float step = peak * given.peak_to_scale;
  *scale = step;
  Code *__restrict q = static_cast<Code *>(code);
  const float low = static_cast<float>(-given.zero), high = static_cast<float>(255 - given.zero);
  const int32_t shift = given.zero - stored(given.zero);
  constexpr float kRounding = 12582912.0f; // 1.5 * 2^23: adding it leaves no fraction, rounded to even
  for (int64_t k = 0; k < inputs; ++k) {
    float value = x[k] / step;
    value = value < high ? value : high; // also for a NaN
    value = value > low ? value : low;
    value = (value + kRounding) - kRounding;
    q[k] = static_cast<Code>(static_cast<int32_t>(value) + shift);
  }
  for (int64_t k = inputs; k < groups(inputs) * kGroup; ++k) q[k] = 0;
}

inline float exponential(float x) {
  x = x < 88.0f ? x : 88.0f;
  x = x > -87.0f ? x : -87.0f;
  constexpr float kRounding = 12582912.0f;
  const float n = (x * 1.44269504f + kRounding) - kRounding;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; // ln 2 in two parts
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  __builtin_memcpy(&power, &bits, sizeof power);
  return p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// Abramowitz and Stegun, 7.1.26: within 1.5e-7.
inline float error_function(float x) {
  const float a = __builtin_fabsf(x);
  const float t = 1.0f / (1.0f + 0.3275911f * a);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float y = 1.0f - p * t * exponential(-a * a);
  return __builtin_copysignf(y, x);
}

// Sums of products of kRows frames with one panel. The loops are unrolled so that all sums stay in registers.
template <int kRows> void multiply_tile(const Code *q, int64_t codes_of_row, const int8_t *w, int64_t steps, int32_t *out) {
  Sums sums[kRows * kVectors];
#pragma GCC unroll 24
  for (int i = 0; i < kRows * kVectors; ++i) sums[i] = none();
  for (int64_t step = 0; step < steps; ++step, q += kGroup, w += kGroup * kPanel) {
    __builtin_prefetch(w + kAhead);
    Bytes weights[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) weights[v] = load(w + v * kLanes * kGroup);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const Bytes frame = repeat(q + r * codes_of_row);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r * kVectors + v] = add_products(sums[r * kVectors + v], frame, weights[v]);
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < kRows * kVectors; ++i) store(out + i * kLanes, sums[i]);
}

using MultiplyTile = void (*)(const Code *, int64_t, const int8_t *, int64_t, int32_t *);
constexpr MultiplyTile kTiles[12] = {
    multiply_tile<1>, multiply_tile<2>, multiply_tile<3>, multiply_tile<4>, multiply_tile<5>, multiply_tile<6>,
#if defined(UNICHOIR_AVX512_VNNI)
    multiply_tile<7>, multiply_tile<8>, multiply_tile<9>, multiply_tile<10>, multiply_tile<11>, multiply_tile<12>,
#endif
};

template <Activation kActivation> inline float activate(float x) {
  if (kActivation == Activation::kSwish) return x * sigmoid(x);
  if (kActivation == Activation::kGelu) return 0.5f * x * (1.0f + error_function(x * 0.70710678f));
  if (kActivation == Activation::kRelu) return x > 0.0f ? x : 0.0f;
  return x;
}

// Writes the results of one frame and one panel to y.
template <Activation kActivation>
void finish(const int32_t *__restrict sums, int32_t missing, const int32_t *__restrict column_sum, float row_scale,
            const float *__restrict column_scale, const float *__restrict bias, float *__restrict y, int64_t count) {
  alignas(64) float values[kPanel];
  constexpr bool kIsGlu = kActivation == Activation::kGlu;
  float *to = count == kPanel ? y : values;
#pragma omp simd
  for (int c = 0; c < kPanel; ++c) {
    const float sum = static_cast<float>(sums[c] - missing * column_sum[c]);
    to[c] = activate<kActivation>(sum * column_scale[c] * row_scale + bias[c]);
  }
  if (kIsGlu) { // the first half of a panel's columns times the gates in the second half
#pragma omp simd
    for (int c = 0; c < kPanel / 2; ++c) values[c] *= sigmoid(values[kPanel / 2 + c]);
  }
  if (to == values)
    for (int64_t c = 0; c < count; ++c) y[c] = values[c];
}

template <Activation kActivation>
void multiply_and_activate(const Code *code, const float *scale, int64_t rows, Codes codes, const Weights &weights,
                           int64_t first, int64_t last, float *y, int64_t width) {
  const int64_t steps = groups(weights.inputs), codes_of_row = steps * kGroup;
  const int32_t missing = correction(coding(codes).zero);
  constexpr int64_t kColumns = kActivation == Activation::kGlu ? kPanel / 2 : kPanel;
  alignas(64) int32_t sums[kTile * kPanel];
  for (int64_t panel = first; panel < last; ++panel) {
    const int8_t *w = weights.packed + panel * steps * kGroup * kPanel;
    const int64_t place = panel * kPanel, start = panel * kColumns;
    const int64_t count = start + kColumns <= width ? kColumns : width - start;
    for (int64_t row = 0; row < rows; row += kTile) {
      const int64_t taken = rows - row < kTile ? rows - row : kTile;
      kTiles[taken - 1](code + row * codes_of_row, codes_of_row, w, steps, sums);
      for (int64_t r = 0; r < taken; ++r)
        finish<kActivation>(sums + r * kPanel, missing, weights.sums + place, scale[row + r], weights.scale + place,
                            weights.bias + place, y + (row + r) * width + start, count);
    }
  }
}

void multiply(const void *code, const float *scale, int64_t rows, Codes codes, const Weights &weights,
              Activation activation, int64_t first, int64_t last, float *y, int64_t width) {
  const auto run = activation == Activation::kSwish  ? multiply_and_activate<Activation::kSwish>
                   : activation == Activation::kGelu ? multiply_and_activate<Activation::kGelu>
                   : activation == Activation::kRelu ? multiply_and_activate<Activation::kRelu>
                   : activation == Activation::kGlu  ? multiply_and_activate<Activation::kGlu>
                                                     : multiply_and_activate<Activation::kNone>;
  run(static_cast<const Code *>(code), scale, rows, codes, weights, first, last, y, width);
}

void combine(const float *const *x, const float *gate, int64_t count, int64_t width, float *__restrict y) {
  for (int64_t c = 0; c < width; ++c) y[c] = 0.0f;
  for (int64_t k = 0; k < count; ++k) {
    const float *__restrict row = x[k];
    for (int64_t c = 0; c < width; ++c) y[c] += row[c] * gate[k];
  }
}

} // namespace

extern const Version version;
const Version version = {UNICHOIR_NAME, kPanel, kTile, code_bytes, panel_bytes, pack, quantize, multiply, combine};

} // namespace UNICHOIR_VERSION
} // namespace kernels
