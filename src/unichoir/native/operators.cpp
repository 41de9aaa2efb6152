// Custom operators of ONNX Runtime for int8 layers. In a graph each is a function whose body has ONNX Runtime's own
// operators (export/functions.py); once this library is registered, ONNX Runtime runs these kernels instead.
//
//     Linear_<codes>[_<activation>]   (..., K) x, (K, M) weight, (M) scale, (M) bias: (..., M), halved by glu
//     Experts_<activation>            (N, D) x, (N, K) gates, (N, K) experts, (E, H) scale_1, (E, H) bias_1,
//                                     (E, D) scale_2, (E, D) bias_2, E times (D, H) w_1, E times (H, D) w_2: (N, D)
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "kernels.h"
#include "runtime.h"

namespace {

using kernels::Activation;
using kernels::Codes;
using kernels::Version;
using runtime::Tensor;

constexpr int64_t kRowsOfTask = 96;
constexpr uintptr_t kLeastToForget = 1 << 16; // bytes
// Tasks per product if there are enough columns: several for each thread, so that threads end at about the same time.
constexpr int64_t kTasks = 48;

const char *const kCodes[] = {"symmetric", "swish", "gelu", "relu"};
const char *const kActivations[] = {"", "_swish", "_gelu", "_relu", "_glu"};

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Gives back the memory of a file's pages, which are read again if they are needed. Large models map their weights from a
// file, and their packed copies take as much memory. Does nothing for other memory.
void forget_file_pages(const void *data, size_t size) {
#if defined(__linux__)
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + size) / page * page;
  if (begin + kLeastToForget > end) return;
  FILE *const maps = std::fopen("/proc/self/maps", "r");
  if (maps == nullptr) return;
  char line[4352]; // a path, and what is before it
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    unsigned long first = 0, last = 0, inode = 0;
    if (std::sscanf(line, "%lx-%lx %*s %*x %*x:%*x %lu", &first, &last, &inode) != 3) continue;
    if (first > begin || last < end) continue;
    // ONNX Runtime maps weights privately and writable, but never changes them: they are equal to the file.
    if (inode != 0) madvise(reinterpret_cast<void *>(begin), end - begin, MADV_DONTNEED);
    break;
  }
  std::fclose(maps);
#else
  (void)data, (void)size;
#endif
}

// A weight (inputs, outputs) in panels, with the scale and bias of each output.
class Packed {
public:
  Packed(const Version &version, const Tensor<const int8_t> &weight, const float *scale, const float *bias, bool is_glu)
      : version_(version) {
    const int64_t inputs = weight.sizes.at(0), outputs = weight.sizes.at(1), panel = version.panel;
    // With a GLU, each panel has some outputs and then their gates.
    const int64_t fresh = is_glu ? panel / 2 : panel, results = is_glu ? outputs / 2 : outputs;
    width_ = results;
    weights_.inputs = inputs;
    weights_.panels = divide_up(results, fresh);
    const int64_t columns = weights_.panels * panel;
    std::vector<int32_t> column(columns);
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t result = c / panel * fresh + c % panel % fresh;
      const int64_t gate = c % panel >= fresh ? results : 0;
      column[c] = result < results ? static_cast<int32_t>(result + gate) : -1;
    }
    packed_.reset(new int8_t[weights_.panels * version.panel_bytes(inputs) + 63]);
    int8_t *aligned = packed_.get() + (64 - reinterpret_cast<uintptr_t>(packed_.get()) % 64) % 64;
    sums_.resize(columns);
    scale_.resize(columns);
    bias_.resize(columns);
    version.pack(weight.data, inputs, outputs, column.data(), 0, weights_.panels, aligned, sums_.data());
    for (int64_t c = 0; c < columns; ++c) {
      scale_[c] = column[c] < 0 ? 0.0f : scale[column[c]];
      bias_[c] = column[c] < 0 ? 0.0f : bias[column[c]];
    }
    weights_.packed = aligned;
    weights_.sums = sums_.data();
    weights_.scale = scale_.data();
    weights_.bias = bias_.data();
    forget_file_pages(weight.data, static_cast<size_t>(inputs * outputs));
  }

  int64_t inputs() const { return weights_.inputs; }
  int64_t width() const { return width_; }
  int64_t panels() const { return weights_.panels; }

  void multiply(const void *code, const float *scale, int64_t rows, Codes codes, Activation activation, int64_t first,
                int64_t last, float *y) const {
    version_.multiply(code, scale, rows, codes, weights_, activation, first, last, y, width_);
  }

private:
  const Version &version_;
  int64_t width_ = 0;
  kernels::Weights weights_ = {};
  std::unique_ptr<int8_t[]> packed_;
  std::vector<int32_t> sums_;
  std::vector<float> scale_, bias_;
};

void check_width(int64_t found, int64_t expected) {
  if (found == expected) return;
  const std::string message =
      "a frame has " + std::to_string(found) + " values, but the weights need " + std::to_string(expected);
  throw runtime::Error{runtime::create_status(runtime::kInvalidArgument, message.c_str())};
}

// The quantised frames of one product.
struct Frames {
  char *code;
  float *scale;
  int64_t code_bytes;

  static size_t bytes(const Version &version, int64_t rows, int64_t inputs) {
    return runtime::Scratch::bytes<char>(rows * version.code_bytes(inputs)) + runtime::Scratch::bytes<float>(rows);
  }
  Frames(const Version &version, runtime::Scratch &scratch, int64_t rows, int64_t inputs)
      : code(scratch.take<char>(rows * version.code_bytes(inputs))), scale(scratch.take<float>(rows)),
        code_bytes(version.code_bytes(inputs)) {}

  char *code_of(int64_t row) const { return code + row * code_bytes; }
};

constexpr int64_t kRowsToQuantize = 16;

void quantize(const Version &version, OrtKernelContext *context, const float *x, int64_t rows, int64_t inputs,
              Codes codes, const Frames &frames) {
  runtime::parallel(context, divide_up(rows, kRowsToQuantize), [&](int64_t block) {
    const int64_t end = std::min(rows, (block + 1) * kRowsToQuantize);
    for (int64_t row = block * kRowsToQuantize; row < end; ++row)
      version.quantize(x + row * inputs, inputs, codes, frames.code_of(row), frames.scale + row);
  });
}

// A part of a product: some rows, which belong to one expert, times some panels.
struct Part {
  int64_t expert, row, rows, first, last;
};

// Splits rows [begin, begin + count) times `panels` into parts.
void split(std::vector<Part> &parts, const Version &version, int64_t expert, int64_t begin, int64_t count,
           int64_t panels, int64_t columns) {
  const int64_t tiles = divide_up(count, version.tile), blocks = divide_up(count, kRowsOfTask);
  const int64_t step = divide_up(panels, std::min(panels, columns));
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t row = std::min(count, tiles * block / blocks * version.tile);
    const int64_t end = std::min(count, tiles * (block + 1) / blocks * version.tile);
    if (end == row) continue;
    for (int64_t first = 0; first < panels; first += step)
      parts.push_back({expert, begin + row, end - row, first, std::min(panels, first + step)});
  }
}

// Multiplies rows [begin[e], begin[e + 1]) by weights[e], for each e.
void multiply(const Version &version, OrtKernelContext *context, const std::vector<int64_t> &begin,
              const Packed *weights, const Frames &frames, Codes codes, Activation activation, float *y) {
  const int64_t experts = static_cast<int64_t>(begin.size()) - 1;
  int64_t blocks = 0;
  for (int64_t e = 0; e < experts; ++e) blocks += divide_up(begin[e + 1] - begin[e], kRowsOfTask);
  if (blocks == 0) return;
  std::vector<Part> parts;
  for (int64_t e = 0; e < experts; ++e)
    split(parts, version, e, begin[e], begin[e + 1] - begin[e], weights[e].panels(), divide_up(kTasks, blocks));
  // The largest first, so that threads end at about the same time.
  std::stable_sort(parts.begin(), parts.end(), [](const Part &a, const Part &b) { return a.rows > b.rows; });
  runtime::parallel(context, static_cast<int64_t>(parts.size()), [&](int64_t i) {
    const Part &part = parts[i];
    const Packed &weight = weights[part.expert];
    weight.multiply(frames.code_of(part.row), frames.scale + part.row, part.rows, codes, activation, part.first,
                    part.last, y + part.row * weight.width());
  });
}

class Linear {
public:
  Linear(const Version &version, Codes codes, Activation activation, const OrtKernelInfo *info)
      : version_(version), codes_(codes), activation_(activation),
        packed_(version, runtime::constant<int8_t>(info, 1), runtime::constant<float>(info, 2).data,
                runtime::constant<float>(info, 3).data, activation == Activation::kGlu) {}

  void compute(OrtKernelContext *context) const {
    const auto x = runtime::input<float>(context, 0);
    const int64_t rows = x.rows(), inputs = packed_.inputs();
    check_width(x.last(), inputs);
    std::vector<int64_t> sizes = x.sizes;
    sizes.back() = packed_.width();
    float *y = runtime::output(context, sizes);
    if (rows == 0) return;
    runtime::Scratch scratch(context, Frames::bytes(version_, rows, inputs));
    const Frames frames(version_, scratch, rows, inputs);
    quantize(version_, context, x.data, rows, inputs, codes_, frames);
    multiply(version_, context, {0, rows}, &packed_, frames, codes_, activation_, y);
  }

private:
  const Version &version_;
  const Codes codes_;
  const Activation activation_;
  const Packed packed_;
};

class Experts {
public:
  Experts(const Version &version, Activation activation, const OrtKernelInfo *info)
      : version_(version), activation_(activation), codes_(static_cast<Codes>(activation)) {
    const auto scale_1 = runtime::constant<float>(info, 3), bias_1 = runtime::constant<float>(info, 4);
    const auto scale_2 = runtime::constant<float>(info, 5), bias_2 = runtime::constant<float>(info, 6);
    const int64_t experts = scale_1.sizes.at(0), hidden = scale_1.sizes.at(1), dim = scale_2.sizes.at(1);
    for (int64_t e = 0; e < experts; ++e) {
      const auto w_1 = runtime::constant<int8_t>(info, 7 + e), w_2 = runtime::constant<int8_t>(info, 7 + experts + e);
      first_.emplace_back(version, w_1, scale_1.data + e * hidden, bias_1.data + e * hidden, false);
      second_.emplace_back(version, w_2, scale_2.data + e * dim, bias_2.data + e * dim, false);
    }
  }

  void compute(OrtKernelContext *context) const {
    const auto x = runtime::input<float>(context, 0), gates = runtime::input<float>(context, 1);
    const auto chosen = runtime::input<int64_t>(context, 2);
    const int64_t frames = x.rows(), top_k = chosen.last(), dim = first_[0].inputs(), hidden = second_[0].inputs();
    const int64_t experts = static_cast<int64_t>(first_.size());
    check_width(x.last(), dim);
    float *y = runtime::output(context, x.sizes);
    // The copies of frames are sorted by expert; `begin` is the first copy of each expert.
    std::vector<int64_t> begin(experts + 1), place(frames * top_k, -1);
    for (int64_t copy = 0; copy < frames * top_k; ++copy)
      if (is_expert(chosen.data[copy])) ++begin[chosen.data[copy] + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (int64_t copy = 0; copy < frames * top_k; ++copy)
      if (is_expert(chosen.data[copy])) place[copy] = next[chosen.data[copy]]++;
    const int64_t copies = begin.back();
    runtime::Scratch scratch(context, Frames::bytes(version_, copies, dim) + Frames::bytes(version_, copies, hidden) +
                                          runtime::Scratch::bytes<float>(copies * hidden) +
                                          runtime::Scratch::bytes<float>(copies * dim) + 64);
    const Frames in(version_, scratch, copies, dim), between(version_, scratch, copies, hidden);
    float *const units = scratch.take<float>(copies * hidden), *const out = scratch.take<float>(copies * dim);

    runtime::parallel(context, divide_up(frames, kRowsToQuantize), [&](int64_t block) {
      const int64_t end = std::min(frames, (block + 1) * kRowsToQuantize);
      for (int64_t frame = block * kRowsToQuantize; frame < end; ++frame) {
        int64_t quantized = -1;
        for (int64_t copy = frame * top_k; copy < (frame + 1) * top_k; ++copy) {
          if (place[copy] < 0) continue;
          if (quantized < 0) {
            quantized = place[copy];
            version_.quantize(x.data + frame * dim, dim, Codes::kSymmetric, in.code_of(quantized), in.scale + quantized);
          } else {
            std::memcpy(in.code_of(place[copy]), in.code_of(quantized), in.code_bytes);
            in.scale[place[copy]] = in.scale[quantized];
          }
        }
      }
    });
    multiply(version_, context, begin, first_.data(), in, Codes::kSymmetric, activation_, units);
    quantize(version_, context, units, copies, hidden, codes_, between);
    multiply(version_, context, begin, second_.data(), between, codes_, Activation::kNone, out);
    runtime::parallel(context, divide_up(frames, kRowsToQuantize), [&](int64_t block) {
      const int64_t end = std::min(frames, (block + 1) * kRowsToQuantize);
      std::vector<const float *> rows;
      std::vector<float> gate;
      for (int64_t frame = block * kRowsToQuantize; frame < end; ++frame) {
        rows.clear();
        gate.clear();
        for (int64_t copy = frame * top_k; copy < (frame + 1) * top_k; ++copy) {
          if (place[copy] < 0) continue;
          rows.push_back(out + place[copy] * dim);
          gate.push_back(gates.data[copy]);
        }
        version_.combine(rows.data(), gate.data(), static_cast<int64_t>(rows.size()), dim, y + frame * dim);
      }
    });
  }

private:
  bool is_expert(int64_t number) const { return number >= 0 && number < static_cast<int64_t>(first_.size()); }

  const Version &version_;
  const Activation activation_;
  const Codes codes_; // of the values after the activation; both have the same order
  std::vector<Packed> first_, second_;
};
static_assert(static_cast<int>(Codes::kSwish) == static_cast<int>(Activation::kSwish), "see Experts::codes_");
static_assert(static_cast<int>(Codes::kGelu) == static_cast<int>(Activation::kGelu), "see Experts::codes_");
static_assert(static_cast<int>(Codes::kRelu) == static_cast<int>(Activation::kRelu), "see Experts::codes_");

const Version &chosen_version() {
  const Version *version = kernels::chosen_version();
  if (version == nullptr)
    throw runtime::Error{runtime::create_status(runtime::kInvalidArgument, "there are no kernels for this processor")};
  return *version;
}

template <typename Function> OrtStatus *guarded(const Function &function) {
  try {
    function();
    return nullptr;
  } catch (const runtime::Error &error) {
    return error.status;
  } catch (const std::exception &error) {
    return runtime::create_status(runtime::kException, error.what());
  }
}

// What ONNX Runtime needs to know of an operator.
struct Operator : OrtCustomOp {
  std::string name;
  Codes codes = Codes::kSymmetric;
  Activation activation = Activation::kNone;

  Operator() : OrtCustomOp() {
    version = runtime::kVersion;
    get_name = [](const OrtCustomOp *self) { return static_cast<const Operator *>(self)->name.c_str(); };
    get_provider = [](const OrtCustomOp *) -> const char * { return nullptr; }; // the CPU
    get_output_type = [](const OrtCustomOp *, size_t) { return runtime::kFloat; };
    get_output_count = [](const OrtCustomOp *) -> size_t { return 1; };
    get_output_kind = [](const OrtCustomOp *, size_t) { return runtime::kRequired; };
    get_input_memory = [](const OrtCustomOp *, size_t) { return runtime::kDefaultMemory; };
    get_least_variadic_inputs = [](const OrtCustomOp *) { return 1; };
    are_variadic_inputs_alike = [](const OrtCustomOp *) { return 1; };
    get_least_variadic_outputs = [](const OrtCustomOp *) { return 1; };
    are_variadic_outputs_alike = [](const OrtCustomOp *) { return 1; };
    get_first_version = [](const OrtCustomOp *) { return 1; };
    get_last_version = [](const OrtCustomOp *) { return 1; };
  }

  template <typename Kernel> void use() {
    compute = [](void *kernel, OrtKernelContext *context) {
      return guarded([&] { static_cast<const Kernel *>(kernel)->compute(context); });
    };
    destroy_kernel = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
  }
};

std::vector<std::unique_ptr<Operator>> make_operators() {
  std::vector<std::unique_ptr<Operator>> operators;
  for (int codes = 0; codes < 4; ++codes)
    for (int activation = 0; activation < 5; ++activation) {
      auto linear = std::make_unique<Operator>();
      linear->name = std::string("Linear_") + kCodes[codes] + kActivations[activation];
      linear->codes = static_cast<Codes>(codes);
      linear->activation = static_cast<Activation>(activation);
      linear->get_input_type = [](const OrtCustomOp *, size_t i) { return i == 1 ? runtime::kInt8 : runtime::kFloat; };
      linear->get_input_count = [](const OrtCustomOp *) -> size_t { return 4; };
      linear->get_input_kind = [](const OrtCustomOp *, size_t) { return runtime::kRequired; };
      linear->create_kernel = [](const OrtCustomOp *self, const OrtApi *, const OrtKernelInfo *info, void **kernel) {
        const auto &given = *static_cast<const Operator *>(self);
        return guarded([&] { *kernel = new Linear(chosen_version(), given.codes, given.activation, info); });
      };
      linear->use<Linear>();
      operators.push_back(std::move(linear));
    }
  for (int activation = 1; activation < 4; ++activation) {
    auto experts = std::make_unique<Operator>();
    experts->name = std::string("Experts") + kActivations[activation];
    experts->activation = static_cast<Activation>(activation);
    experts->get_input_type = [](const OrtCustomOp *, size_t i) {
      return i == 2 ? runtime::kInt64 : i < 7 ? runtime::kFloat : runtime::kInt8;
    };
    experts->get_input_count = [](const OrtCustomOp *) -> size_t { return 8; };
    experts->get_input_kind = [](const OrtCustomOp *, size_t i) { return i < 7 ? runtime::kRequired : runtime::kVariadic; };
    experts->create_kernel = [](const OrtCustomOp *self, const OrtApi *, const OrtKernelInfo *info, void **kernel) {
      const auto &given = *static_cast<const Operator *>(self);
      return guarded([&] { *kernel = new Experts(chosen_version(), given.activation, info); });
    };
    experts->use<Experts>();
    operators.push_back(std::move(experts));
  }
  return operators;
}

} // namespace

extern "C" {

// The name of the version for new kernels; null if there is none.
__attribute__((visibility("default"))) const char *unichoir_version() {
  const Version *version = kernels::chosen_version();
  return version == nullptr ? nullptr : version->name;
}

// The names of all versions that this processor supports, separated by spaces.
__attribute__((visibility("default"))) const char *unichoir_supported_versions() {
  static const std::string names = [] {
    std::string joined;
    for (const Version *const *version = kernels::supported_versions(); *version != nullptr; ++version)
      joined += (joined.empty() ? "" : " ") + std::string((*version)->name);
    return joined;
  }();
  return names.c_str();
}

// Called by ONNX Runtime when the library is registered.
__attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  runtime::api = base->get_api(runtime::kVersion);
  static const std::vector<std::unique_ptr<Operator>> operators = make_operators();
  static OrtCustomOpDomain *const domain = [] {
    OrtCustomOpDomain *made = nullptr;
    runtime::check(runtime::create_domain("unichoir", &made));
    for (const auto &each : operators) runtime::check(runtime::add_operator(made, each.get()));
    return made;
  }();
  return guarded([&] { runtime::check(runtime::add_domain(options, domain)); });
}
}
