// Int8 products of frames and weights, in one version for each kind of processor.
//
//     y_nm = s_n t_m sum_k (q_nk - z) w_km + b_m
//
// q: codes of frame n (8 bits), z: the code of 0, s: the frame's scale, w: weights (8 bits), t: the scales of outputs.
// All versions compute the same sums, exactly.
#pragma once

#include <cstdint>

namespace kernels {

enum class Codes { kSymmetric, kSwish, kGelu, kRelu };           // see quantize.ZERO_POINT
enum class Activation { kNone, kSwish, kGelu, kRelu, kGlu };     // of a product's outputs

// A weight matrix, packed in panels: the columns of a panel are adjacent in memory.
struct Weights {
  int64_t inputs;
  int64_t panels;
  const int8_t *packed;
  const int32_t *sums; // of each column
  const float *scale;
  const float *bias;
};

struct Version {
  const char *name;
  int64_t panel; // columns of a panel
  int64_t tile;  // rows multiplied at once
  // Bytes of the codes of one frame, and of one packed panel.
  int64_t (*code_bytes)(int64_t inputs);
  int64_t (*panel_bytes)(int64_t inputs);
  // Packs the columns `columns` (-1: zeros) of w (inputs x stride) as panels first to last - 1.
  void (*pack)(const int8_t *w, int64_t inputs, int64_t stride, const int32_t *columns, int64_t first, int64_t last,
               int8_t *packed, int32_t *sums);
  // Quantises one frame.
  void (*quantize)(const float *x, int64_t inputs, Codes codes, void *code, float *scale);
  // Multiplies `rows` frames with panels first to last - 1. Writes the columns of the result below `width` into y.
  void (*multiply)(const void *code, const float *scale, int64_t rows, Codes codes, const Weights &weights,
                   Activation activation, int64_t first, int64_t last, float *y, int64_t width);
  // y = sum of gate[k] * x[k] over `count` rows.
  void (*combine)(const float *const *x, const float *gate, int64_t count, int64_t width, float *y);
};

// All versions that this processor supports and that pass a trial, the fastest first, and then null.
const Version *const *supported_versions();

// The version that the environment variable UNICHOIR_NATIVE names (0: none), by default the fastest; null: none.
const Version *chosen_version();

} // namespace kernels
