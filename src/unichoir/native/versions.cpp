// The choice of the version for this processor.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels.h"

#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace kernels {

#define DECLARE(name)                                                                                                  \
  namespace name {                                                                                                     \
  extern const Version version;                                                                                        \
  }

#if defined(UNICHOIR_HAS_AVX512_VNNI)
DECLARE(avx512_vnni)
#endif
#if defined(UNICHOIR_HAS_AVX_VNNI)
DECLARE(avx_vnni)
#endif
#if defined(UNICHOIR_HAS_AVX2)
DECLARE(avx2)
#endif
#if defined(UNICHOIR_HAS_NEON)
DECLARE(neon)
#endif

namespace {

// Returns whether a small product of `version` equals one computed number by number. Tests don't run on every kind of
// processor, so each version is tried before it is used.
bool passes_trial(const Version &version) {
  constexpr int64_t kRows = 13, kInputs = 71, kOutputs = 37;
  constexpr int32_t kZero = 128; // of symmetric codes
  std::vector<float> x(kRows * kInputs), y(kRows * kOutputs);
  std::vector<int8_t> w(kInputs * kOutputs);
  uint32_t state = 1;
  const auto draw = [&state] { return (state = state * 1664525u + 1013904223u) >> 24; };
  for (auto &each : x) each = static_cast<float>(static_cast<int32_t>(draw()) - 128);
  for (auto &each : w) each = static_cast<int8_t>(draw() % 255 - 127);
  for (int64_t k = 0; k < kInputs; ++k) {
    x[k] = 127.0f; // pairs of such products don't fit in 16 bits
    w[k * kOutputs] = 127;
    w[k * kOutputs + 1] = -127;
  }
  const int64_t panels = (kOutputs + version.panel - 1) / version.panel, columns = panels * version.panel;
  std::vector<int32_t> column(columns), sums(columns);
  std::vector<float> ones(columns, 1.0f), none(columns), scale(kRows);
  for (int64_t c = 0; c < columns; ++c) column[c] = c < kOutputs ? static_cast<int32_t>(c) : -1;
  std::vector<int8_t> packed(panels * version.panel_bytes(kInputs));
  version.pack(w.data(), kInputs, kOutputs, column.data(), 0, panels, packed.data(), sums.data());
  std::vector<char> code(kRows * version.code_bytes(kInputs));
  for (int64_t n = 0; n < kRows; ++n)
    version.quantize(&x[n * kInputs], kInputs, Codes::kSymmetric, &code[n * version.code_bytes(kInputs)], &scale[n]);
  const Weights weights = {kInputs, panels, packed.data(), sums.data(), ones.data(), none.data()};
  version.multiply(code.data(), scale.data(), kRows, Codes::kSymmetric, weights, Activation::kNone, 0, panels, y.data(),
                   kOutputs);
  for (int64_t n = 0; n < kRows; ++n) {
    float peak = 0.0f;
    for (int64_t k = 0; k < kInputs; ++k) peak = std::fmax(peak, std::fabs(x[n * kInputs + k]));
    const float step = peak * (1.0f / 127);
    for (int64_t m = 0; m < kOutputs; ++m) {
      int32_t sum = 0;
      for (int64_t k = 0; k < kInputs; ++k) {
        const float code_of_x = std::nearbyint(x[n * kInputs + k] / step) + kZero;
        sum += (static_cast<int32_t>(std::fmin(std::fmax(code_of_x, 0.0f), 255.0f)) - kZero) * w[k * kOutputs + m];
      }
      const float exact = static_cast<float>(sum) * step;
      if (std::fabs(y[n * kOutputs + m] - exact) > 1e-5f * std::fabs(exact)) return false;
    }
  }
  return true;
}

} // namespace

const Version *const *supported_versions() {
  static const std::vector<const Version *> supported = [] {
    std::vector<const Version *> found;
#if defined(__x86_64__)
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if defined(UNICHOIR_HAS_AVX512_VNNI)
    if (has_avx2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
      found.push_back(&avx512_vnni::version);
#endif
#if defined(UNICHOIR_HAS_AVX_VNNI)
    if (has_avx2 && __builtin_cpu_supports("avxvnni")) found.push_back(&avx_vnni::version);
#endif
#if defined(UNICHOIR_HAS_AVX2)
    if (has_avx2) found.push_back(&avx2::version);
#endif
#if defined(UNICHOIR_HAS_NEON)
#if defined(__linux__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) found.push_back(&neon::version);
#else
    found.push_back(&neon::version); // all of Apple's processors have these instructions
#endif
#endif
    const auto fails = [](const Version *version) { return !passes_trial(*version); };
    found.erase(std::remove_if(found.begin(), found.end(), fails), found.end());
    found.push_back(nullptr);
    return found;
  }();
  return supported.data();
}

const Version *chosen_version() {
  const char *const wanted = std::getenv("UNICHOIR_NATIVE");
  const bool any = wanted == nullptr || std::strcmp(wanted, "") == 0 || std::strcmp(wanted, "1") == 0;
  for (const Version *const *version = supported_versions(); *version != nullptr; ++version)
    if (any || std::strcmp(wanted, (*version)->name) == 0) return *version;
  return nullptr;
}

} // namespace kernels
