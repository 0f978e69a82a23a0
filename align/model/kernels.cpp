// The small operations of a transformer block on a CPU, each in one pass: what PyTorch does in five to ten.
//
// Rows are independent of each other; sums and exponentials are in fp32 whatever the tensors hold. Compiled and
// loaded by native.py, called by fused.py, which says what each is and proves it against plain PyTorch in its tests.
// The code is plain loops for the compiler to vectorise; nothing here allocates but the scratch of a sum.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#else
static inline int omp_get_max_threads() { return 1; }
static inline int omp_get_num_threads() { return 1; }
static inline int omp_get_thread_num() { return 0; }
#endif

namespace {

struct bf16 {
  uint16_t bits;
};

inline float load(float x) { return x; }
inline float load(bf16 x) {
  uint32_t wide = uint32_t(x.bits) << 16;
  float out;
  std::memcpy(&out, &wide, 4);
  return out;
}

inline void store(float &to, float x) { to = x; }
inline void store(bf16 &to, float x) {  // to the nearest, ties to even; a NaN stays one
  uint32_t wide;
  std::memcpy(&wide, &x, 4);
  uint32_t rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
  to.bits = (wide & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : uint16_t(rounded);
}

template <typename T> inline float rounded(float x) {  // through T's precision
  T kept;
  store(kept, x);
  return load(kept);
}

// e^x to 1e-7 relative for x <= 0, by 2^n times a polynomial (Cephes' expf); 0 from where fp32 has nothing left.
inline float exp_nonpositive(float x) {
  float y = x < -87.0f ? -87.0f : x;
  float n = std::nearbyint(y * 1.44269504088896341f);
  float r = y - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits = (int32_t(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return x < -87.0f ? 0.0f : p * scale;
}

inline float sigmoid(float x) {
  float e = exp_nonpositive(x < 0 ? x : -x);
  return (x < 0 ? e : 1.0f) / (1.0f + e);
}

constexpr int64_t SMALL = 1 << 13;  // elements that one thread does alone

template <typename T>
void rms_norm(const T *x, const T *weight, T *out, float *scale, int64_t rows, int64_t width, float eps) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
  for (int64_t row = 0; row < rows; ++row) {
    const T *a = x + row * width;
    T *to = out + row * width;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += load(a[i]) * load(a[i]);
    float by = 1.0f / std::sqrt(sum / float(width) + eps);
    scale[row] = by;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(to[i], rounded<T>(load(a[i]) * by) * load(weight[i]));
  }
}

template <typename T>
void rms_norm_backward(const T *x, const T *weight, const float *scale, const T *upstream, T *dx, T *dweight,
                       int64_t rows, int64_t width) {
  int threads = rows * width > SMALL ? omp_get_max_threads() : 1;
  std::vector<float> sums(size_t(threads) * width, 0.0f);
#pragma omp parallel num_threads(threads)
  {
    float *own = sums.data() + int64_t(omp_get_thread_num()) * width;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      const T *a = x + row * width, *g = upstream + row * width;
      T *to = dx + row * width;
      float by = scale[row], dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < width; ++i) dot += load(g[i]) * load(weight[i]) * load(a[i]);
      float back = dot * by * by / float(width);
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        float u = load(g[i]), v = load(a[i]);
        own[i] += u * rounded<T>(v * by);
        store(to[i], by * (u * load(weight[i]) - v * back));
      }
    }
  }
  for (int64_t i = 0; i < width; ++i) {  // threads in order: the same sum each time
    float sum = 0;
    for (int thread = 0; thread < threads; ++thread) sum += sums[size_t(thread) * width + i];
    store(dweight[i], sum);
  }
}

template <typename T> void swiglu(const T *gate, const T *up, T *out, int64_t n) {
#pragma omp parallel for simd schedule(static) if (n > SMALL)
  for (int64_t i = 0; i < n; ++i) {
    float g = load(gate[i]);
    store(out[i], rounded<T>(g * sigmoid(g)) * load(up[i]));
  }
}

template <typename T>
void swiglu_backward(const T *gate, const T *up, const T *upstream, T *dgate, T *dup, int64_t n) {
#pragma omp parallel for simd schedule(static) if (n > SMALL)
  for (int64_t i = 0; i < n; ++i) {
    float g = load(gate[i]), u = load(upstream[i]), s = sigmoid(g);
    store(dup[i], u * rounded<T>(g * s));
    store(dgate[i], u * load(up[i]) * s * (1.0f + g * (1.0f - s)));
  }
}

// Which token of the flat tensor stands at (b, t) of a group of documents: -1 for padding. No index: whole rows.
inline int64_t flat(const int64_t *index, int64_t place) { return index ? index[place] : place; }

// A head's pairs (i, i + half), turned by an angle each and scaled: the product rounded as PyTorch's rotation is.
template <typename T>
inline void turned(const T *from, T *to, const float *c, const float *s, int64_t half, float factor) {
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    float a = load(from[i]), z = load(from[i + half]);
    store(to[i], rounded<T>(a * c[i] - z * s[i]) * factor);
    store(to[i + half], rounded<T>(z * c[i] + a * s[i]) * factor);
  }
}

// Its gradient: scaled and turned by the opposite angle.
template <typename T>
inline void turned_back(const T *from, T *to, const float *c, const float *s, int64_t half, float factor) {
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    float a = load(from[i]) * factor, z = load(from[i + half]) * factor;
    store(to[i], a * c[i] + z * s[i]);
    store(to[i + half], z * c[i] - a * s[i]);
  }
}

// [N, heads, E] -> [B, heads, T, E]: each document's tokens side by side, 0 where there is none. With a table
// [positions, E/2], each head's pairs (i, i + E/2) are turned by their position's angle and scaled.
template <typename T>
void heads_apart(const T *x, T *out, const int64_t *index, const int64_t *positions, const float *cos,
                 const float *sin, int64_t batch, int64_t tokens, int64_t heads, int64_t width, float factor) {
  int64_t half = width / 2;
#pragma omp parallel for collapse(2) schedule(static) if (batch * tokens * heads * width > SMALL)
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t t = 0; t < tokens; ++t) {
      int64_t token = flat(index, b * tokens + t);
      int64_t turn = token < 0 ? 0 : (positions ? positions[token] : t) * half;
      for (int64_t h = 0; h < heads; ++h) {
        T *to = out + ((b * heads + h) * tokens + t) * width;
        if (token < 0) {
          std::memset(to, 0, size_t(width) * sizeof(T));
          continue;
        }
        const T *from = x + (token * heads + h) * width;
        if (cos)
          turned(from, to, cos + turn, sin + turn, half, factor);
        else
          std::memcpy(to, from, size_t(width) * sizeof(T));
      }
    }
}

// The way back, [B, heads, T, E] -> [N, heads, E], turned by the opposite angle: the gradient of the above. Tokens of
// no document are left as they are.
template <typename T>
void heads_together(const T *x, T *out, const int64_t *index, const int64_t *positions, const float *cos,
                    const float *sin, int64_t batch, int64_t tokens, int64_t heads, int64_t width, float factor) {
  int64_t half = width / 2;
#pragma omp parallel for collapse(2) schedule(static) if (batch * tokens * heads * width > SMALL)
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t t = 0; t < tokens; ++t) {
      int64_t token = flat(index, b * tokens + t);
      if (token < 0) continue;
      int64_t turn = (positions ? positions[token] : t) * half;
      for (int64_t h = 0; h < heads; ++h) {
        const T *from = x + ((b * heads + h) * tokens + t) * width;
        T *to = out + (token * heads + h) * width;
        if (cos)
          turned_back(from, to, cos + turn, sin + turn, half, factor);
        else
          std::memcpy(to, from, size_t(width) * sizeof(T));
      }
    }
}

// Scores of [from, to) of a row, lifted by their highest: exponentials in place of scores, and their sum.
template <typename T> inline float highest(const T *at, int64_t from, int64_t to, float so_far) {
#pragma omp simd reduction(max : so_far)
  for (int64_t i = from; i < to; ++i) {
    float x = load(at[i]);
    so_far = x > so_far ? x : so_far;
  }
  return so_far;
}

template <typename T> inline float exponentials(const T *at, float *row, int64_t from, int64_t to, float lift) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = from; i < to; ++i) {
    row[i] = exp_nonpositive(load(at[i]) - lift);
    sum += row[i];
  }
  return sum;
}

// Scores [batch, heads, T, T] -> weights, in place. Token t sees keys [0, stem) and [own, t], own and stem [batch, T];
// without them keys [0, t].
template <typename T>
void softmax(T *scores, const int32_t *own, const int32_t *stem, int64_t batch, int64_t heads, int64_t tokens) {
  const float nothing = -std::numeric_limits<float>::infinity();
#pragma omp parallel if (batch * heads * tokens * tokens > SMALL)
  {
    std::vector<float> held(static_cast<size_t>(tokens));
    float *row = held.data();
#pragma omp for schedule(static)
    for (int64_t index = 0; index < batch * heads * tokens; ++index) {
      T *at = scores + index * tokens;
      int64_t t = index % tokens, b = index / (tokens * heads);
      int64_t first = own ? own[b * tokens + t] : 0, shared = own ? stem[b * tokens + t] : 0;
      float top = highest(at, 0, shared, highest(at, first, t + 1, nothing));
      float sum = exponentials(at, row, first, t + 1, top) + exponentials(at, row, 0, shared, top);
      float by = 1.0f / sum;
      for (int64_t i = 0; i < first; ++i) store(at[i], 0.0f);
#pragma omp simd
      for (int64_t i = 0; i < shared; ++i) store(at[i], row[i] * by);
#pragma omp simd
      for (int64_t i = first; i <= t; ++i) store(at[i], row[i] * by);
      for (int64_t i = t + 1; i < tokens; ++i) store(at[i], 0.0f);
    }
  }
}

// Gradients of weights -> of scores, in place: w * (g - sum(w * g)).
template <typename T> void softmax_backward(const T *weights, T *grad, int64_t rows, int64_t keys) {
#pragma omp parallel for schedule(static) if (rows * keys > SMALL)
  for (int64_t row = 0; row < rows; ++row) {
    const T *w = weights + row * keys;
    T *g = grad + row * keys;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < keys; ++i) dot += load(w[i]) * load(g[i]);
#pragma omp simd
    for (int64_t i = 0; i < keys; ++i) store(g[i], load(w[i]) * (load(g[i]) - dot));
  }
}

}  // namespace

#define BOTH(NAME, PARAMETERS, ...)                                   \
  extern "C" void NAME##_fp32 PARAMETERS(float) { NAME<float>(__VA_ARGS__); } \
  extern "C" void NAME##_bf16 PARAMETERS(bf16) { NAME<bf16>(__VA_ARGS__); }

#define P(T) (const T *x, const T *weight, T *out, float *scale, int64_t rows, int64_t width, float eps)
BOTH(rms_norm, P, x, weight, out, scale, rows, width, eps)
#undef P
#define P(T)                                                                                            \
  (const T *x, const T *weight, const float *scale, const T *upstream, T *dx, T *dweight, int64_t rows, \
   int64_t width)
BOTH(rms_norm_backward, P, x, weight, scale, upstream, dx, dweight, rows, width)
#undef P
#define P(T) (const T *gate, const T *up, T *out, int64_t n)
BOTH(swiglu, P, gate, up, out, n)
#undef P
#define P(T) (const T *gate, const T *up, const T *upstream, T *dgate, T *dup, int64_t n)
BOTH(swiglu_backward, P, gate, up, upstream, dgate, dup, n)
#undef P
#define P(T)                                                                                            \
  (const T *x, T *out, const int64_t *index, const int64_t *positions, const float *cos, const float *sin, \
   int64_t batch, int64_t tokens, int64_t heads, int64_t width, float factor)
BOTH(heads_apart, P, x, out, index, positions, cos, sin, batch, tokens, heads, width, factor)
BOTH(heads_together, P, x, out, index, positions, cos, sin, batch, tokens, heads, width, factor)
#undef P
#define P(T) (T * scores, const int32_t *own, const int32_t *stem, int64_t batch, int64_t heads, int64_t tokens)
BOTH(softmax, P, scores, own, stem, batch, heads, tokens)
#undef P
#define P(T) (const T *weights, T *grad, int64_t rows, int64_t keys)
BOTH(softmax_backward, P, weights, grad, rows, keys)
#undef P
