// The part of ONNX Runtime's C interface for custom operators that this library uses.
//
// The interface is a table of functions whose order never changes; newer releases append to it. Its header isn't in the
// Python packages, so the places used here are named below. Version 17 (ONNX Runtime 1.17) is the first that has all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

struct OrtStatus;
struct OrtValue;
struct OrtShape;
struct OrtAllocator;
struct OrtMemoryInfo;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtSessionOptions;
struct OrtCustomOpDomain;

struct OrtApi {
  void *functions[275];
};

struct OrtApiBase {
  const OrtApi *(*get_api)(uint32_t version);
  const char *(*get_version)();
};

struct OrtCustomOp {
  uint32_t version;
  void *create_kernel_v1;
  const char *(*get_name)(const OrtCustomOp *);
  const char *(*get_provider)(const OrtCustomOp *);
  int (*get_input_type)(const OrtCustomOp *, size_t index);
  size_t (*get_input_count)(const OrtCustomOp *);
  int (*get_output_type)(const OrtCustomOp *, size_t index);
  size_t (*get_output_count)(const OrtCustomOp *);
  void *compute_v1;
  void (*destroy_kernel)(void *kernel);
  int (*get_input_kind)(const OrtCustomOp *, size_t index);
  int (*get_output_kind)(const OrtCustomOp *, size_t index);
  int (*get_input_memory)(const OrtCustomOp *, size_t index);
  int (*get_least_variadic_inputs)(const OrtCustomOp *);
  int (*are_variadic_inputs_alike)(const OrtCustomOp *);
  int (*get_least_variadic_outputs)(const OrtCustomOp *);
  int (*are_variadic_outputs_alike)(const OrtCustomOp *);
  OrtStatus *(*create_kernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **kernel);
  OrtStatus *(*compute)(void *kernel, OrtKernelContext *);
  void *infer_shapes;
  int (*get_first_version)(const OrtCustomOp *);
  int (*get_last_version)(const OrtCustomOp *);
  void *unused[4];
};

namespace runtime {

constexpr uint32_t kVersion = 17;
constexpr int kFloat = 1, kInt8 = 3, kInt64 = 7;      // element types
constexpr int kRequired = 0, kVariadic = 2;           // kinds of inputs
constexpr int kArena = 1, kDefaultMemory = 0;         // a kind of allocator, and of memory
constexpr int kInvalidArgument = 2, kException = 6;   // error codes

inline const OrtApi *api = nullptr;

// Calls the function at `place` of the table.
template <int place, typename... Arguments> OrtStatus *call(Arguments... arguments) {
  return reinterpret_cast<OrtStatus *(*)(Arguments...)>(api->functions[place])(arguments...);
}

struct Error {
  OrtStatus *status;
};

inline void check(OrtStatus *status) {
  if (status != nullptr) throw Error{status};
}

inline OrtStatus *create_status(int code, const char *message) { return call<0>(code, message); }
inline OrtStatus *create_domain(const char *name, OrtCustomOpDomain **domain) { return call<26>(name, domain); }
inline OrtStatus *add_operator(OrtCustomOpDomain *domain, const OrtCustomOp *op) { return call<27>(domain, op); }
inline OrtStatus *add_domain(OrtSessionOptions *options, OrtCustomOpDomain *domain) { return call<28>(options, domain); }

// A tensor's data and sizes.
template <typename T> struct Tensor {
  T *data = nullptr;
  std::vector<int64_t> sizes;

  int64_t last() const { return sizes.empty() ? 1 : sizes.back(); }
  int64_t rows() const {
    int64_t product = 1;
    for (size_t i = 0; i + 1 < sizes.size(); ++i) product *= sizes[i];
    return product;
  }
};

template <typename T> Tensor<T> read(const OrtValue *value) {
  Tensor<T> tensor;
  void *data = nullptr;
  check(call<51>(const_cast<OrtValue *>(value), &data));
  tensor.data = static_cast<T *>(data);
  OrtShape *shape = nullptr;
  check(call<65>(value, &shape));
  size_t count = 0;
  check(call<61>(static_cast<const OrtShape *>(shape), &count));
  tensor.sizes.resize(count);
  OrtStatus *status = call<62>(static_cast<const OrtShape *>(shape), tensor.sizes.data(), count);
  reinterpret_cast<void (*)(OrtShape *)>(api->functions[99])(shape);
  check(status);
  return tensor;
}

// A constant input of a kernel that is being created.
template <typename T> Tensor<const T> constant(const OrtKernelInfo *info, size_t index) {
  int is_constant = 0;
  const OrtValue *value = nullptr;
  check(call<249>(info, index, &is_constant, &value));
  if (!is_constant) throw Error{create_status(kInvalidArgument, "unichoir: weights must be constants")};
  return read<const T>(value);
}

template <typename T> Tensor<const T> input(OrtKernelContext *context, size_t index) {
  const OrtValue *value = nullptr;
  check(call<90>(static_cast<const OrtKernelContext *>(context), index, &value));
  return read<const T>(value);
}

inline float *output(OrtKernelContext *context, const std::vector<int64_t> &sizes) {
  OrtValue *value = nullptr;
  check(call<91>(context, size_t{0}, sizes.data(), sizes.size(), &value));
  void *data = nullptr;
  check(call<51>(value, &data));
  return static_cast<float *>(data);
}

// Runs task(0) to task(count - 1) on the threads of the session, each thread taking the next.
template <typename Task> void parallel(OrtKernelContext *context, int64_t count, const Task &task) {
  if (count <= 0) return;
  if (count == 1) return task(0);
  void (*run)(void *, size_t) = [](void *given, size_t i) {
    (*static_cast<const Task *>(given))(static_cast<int64_t>(i));
  };
  void *given = const_cast<Task *>(&task);
  check(call<274>(static_cast<const OrtKernelContext *>(context), run, static_cast<size_t>(count), size_t{0}, given));
}

// Memory for one call of a kernel, from ONNX Runtime's arena, which reuses it for the next operators.
class Scratch {
public:
  Scratch(OrtKernelContext *context, size_t bytes) {
    OrtMemoryInfo *info = nullptr;
    check(call<69>(kArena, kDefaultMemory, &info));
    OrtStatus *status =
        call<253>(static_cast<const OrtKernelContext *>(context), static_cast<const OrtMemoryInfo *>(info), &allocator_);
    reinterpret_cast<void (*)(OrtMemoryInfo *)>(api->functions[94])(info);
    check(status);
    status = call<75>(allocator_, bytes, &data_);
    if (status != nullptr) {
      release();
      throw Error{status};
    }
    next_ = static_cast<char *>(data_);
  }
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;
  ~Scratch() {
    call<76>(allocator_, data_);
    release();
  }

  // Takes the next `count` values; the caller has asked for bytes(...) of all.
  template <typename T> T *take(int64_t count) {
    T *taken = reinterpret_cast<T *>(next_);
    next_ += bytes<T>(count);
    return taken;
  }
  template <typename T> static size_t bytes(int64_t count) {
    return (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  }

private:
  void release() { reinterpret_cast<void (*)(OrtAllocator *)>(api->functions[132])(allocator_); }

  OrtAllocator *allocator_ = nullptr;
  void *data_ = nullptr;
  char *next_ = nullptr;
};

} // namespace runtime
