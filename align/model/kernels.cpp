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
        if (!cos) {
          std::memcpy(to, from, size_t(width) * sizeof(T));
          continue;
        }
        const float *c = cos + turn, *s = sin + turn;
#pragma omp simd
        for (int64_t i = 0; i < half; ++i) {
          float a = load(from[i]), z = load(from[i + half]);
          store(to[i], rounded<T>(a * c[i] - z * s[i]) * factor);
          store(to[i + half], rounded<T>(z * c[i] + a * s[i]) * factor);
        }
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
        if (!cos) {
          std::memcpy(to, from, size_t(width) * sizeof(T));
          continue;
        }
        const float *c = cos + turn, *s = sin + turn;
#pragma omp simd
        for (int64_t i = 0; i < half; ++i) {
          float a = load(from[i]) * factor, z = load(from[i + half]) * factor;
          store(to[i], a * c[i] + z * s[i]);
          store(to[i + half], z * c[i] - a * s[i]);
        }
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

// A head's tokens of one document in fp32, rotated and scaled where a table is given; keys and values transposed too.
struct Head {
  std::vector<float> rows, columns;  // [L, E], [E, L]

  template <typename T>
  void read(const T *x, const int64_t *index, const int64_t *positions, const float *cos, const float *sin,
            int64_t length, int64_t heads, int64_t head, int64_t width, float factor, bool transposed) {
    rows.resize(size_t(length * width));
    int64_t half = width / 2;
    for (int64_t t = 0; t < length; ++t) {
      const T *from = x + (index[t] * heads + head) * width;
      float *to = rows.data() + t * width;
      if (!cos) {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) to[i] = load(from[i]);
        continue;
      }
      const float *c = cos + positions[index[t]] * half, *s = sin + positions[index[t]] * half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        float a = load(from[i]), z = load(from[i + half]);
        to[i] = rounded<T>(rounded<T>(a * c[i] - z * s[i]) * factor);
        to[i + half] = rounded<T>(rounded<T>(z * c[i] + a * s[i]) * factor);
      }
    }
    if (!transposed) return;
    columns.resize(size_t(length * width));
    for (int64_t t = 0; t < length; ++t)
      for (int64_t i = 0; i < width; ++i) columns[size_t(i * length + t)] = rows[size_t(t * width + i)];
  }

  void clear(int64_t length, int64_t width) { rows.assign(size_t(length * width), 0.0f); }

  // The gradient of what was read, turned back, to its tokens' places.
  template <typename T>
  void write(T *x, const int64_t *index, const int64_t *positions, const float *cos, const float *sin,
             int64_t length, int64_t heads, int64_t head, int64_t width, float factor) const {
    int64_t half = width / 2;
    for (int64_t t = 0; t < length; ++t) {
      T *to = x + (index[t] * heads + head) * width;
      const float *from = rows.data() + t * width;
      if (!cos) {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) store(to[i], from[i]);
        continue;
      }
      const float *c = cos + positions[index[t]] * half, *s = sin + positions[index[t]] * half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        float a = from[i] * factor, z = from[i + half] * factor;
        store(to[i], a * c[i] + z * s[i]);
        store(to[i + half], z * c[i] - a * s[i]);
      }
    }
  }
};

// to[j] = sum over e of one[e] * columns[e][j], j in [from, until)
inline void against(const float *one, const float *columns, float *to, int64_t from, int64_t until, int64_t length,
                    int64_t width) {
  for (int64_t j = from; j < until; ++j) to[j] = 0;
  for (int64_t e = 0; e < width; ++e) {
    float by = one[e];
    const float *column = columns + e * length;
#pragma omp simd
    for (int64_t j = from; j < until; ++j) to[j] += by * column[j];
  }
}

inline void add(float *to, const float *x, float by, int64_t width) {
#pragma omp simd
  for (int64_t e = 0; e < width; ++e) to[e] += by * x[e];
}

// What token t of a document sees: keys [0, shared) and [first, t].
struct Seen {
  int64_t shared, first, last;
  template <typename F> void ranges(F &&f) const {
    if (shared) f(int64_t(0), shared);
    f(first, last + 1);
  }
};

inline void weigh(float *row, const Seen &seen) {  // scores -> weights
  float top = -std::numeric_limits<float>::infinity(), sum = 0;
  seen.ranges([&](int64_t from, int64_t to) { top = highest(row, from, to, top); });
  seen.ranges([&](int64_t from, int64_t to) { sum += exponentials(row, row, from, to, top); });
  float by = 1.0f / sum;
  seen.ranges([&](int64_t from, int64_t to) {
#pragma omp simd
    for (int64_t j = from; j < to; ++j) row[j] *= by;
  });
}

// Attention of short documents, a document and key head at a time, all of it in a core's cache. The arguments are
// those of heads_apart and softmax; lengths [batch] are the documents'.
template <typename T>
void attend_short(const T *q, const T *k, const T *v, T *out, const int64_t *index, const int64_t *lengths,
                  const int32_t *own, const int32_t *stem, const int64_t *positions, const float *cos,
                  const float *sin, int64_t batch, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width,
                  float factor) {
  int64_t shared = heads / kv_heads;
#pragma omp parallel
  {
    Head queries, keys, values;
    std::vector<float> scores(static_cast<size_t>(tokens)), mixed(static_cast<size_t>(width));
#pragma omp for collapse(2) schedule(dynamic, 4)
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t kv = 0; kv < kv_heads; ++kv) {
        const int64_t *at = index + b * tokens, length = lengths[b];
        keys.read(k, at, positions, cos, sin, length, kv_heads, kv, width, 1.0f, true);
        values.read(v, at, positions, nullptr, nullptr, length, kv_heads, kv, width, 1.0f, false);
        for (int64_t h = kv * shared; h < (kv + 1) * shared; ++h) {
          queries.read(q, at, positions, cos, sin, length, heads, h, width, factor, false);
          for (int64_t t = 0; t < length; ++t) {
            Seen seen{own ? stem[b * tokens + t] : 0, own ? own[b * tokens + t] : 0, t};
            float *row = scores.data();
            const float *one = queries.rows.data() + t * width;
            seen.ranges([&](int64_t from, int64_t to) { against(one, keys.columns.data(), row, from, to, length, width); });
            weigh(row, seen);
            float *sum = mixed.data();
            for (int64_t e = 0; e < width; ++e) sum[e] = 0;
            seen.ranges([&](int64_t from, int64_t to) {
              for (int64_t j = from; j < to; ++j) add(sum, values.rows.data() + j * width, row[j], width);
            });
            T *to = out + (at[t] * heads + h) * width;
#pragma omp simd
            for (int64_t e = 0; e < width; ++e) store(to[e], sum[e]);
          }
        }
      }
  }
}

// Its gradient; the weights are worked out again.
template <typename T>
void attend_short_backward(const T *q, const T *k, const T *v, const T *upstream, T *dq, T *dk, T *dv,
                           const int64_t *index, const int64_t *lengths, const int32_t *own, const int32_t *stem,
                           const int64_t *positions, const float *cos, const float *sin, int64_t batch,
                           int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width, float factor) {
  int64_t shared = heads / kv_heads;
#pragma omp parallel
  {
    Head queries, keys, values, grads, dqueries, dkeys, dvalues;
    std::vector<float> held(static_cast<size_t>(tokens)), back(static_cast<size_t>(tokens));
#pragma omp for collapse(2) schedule(dynamic, 4)
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t kv = 0; kv < kv_heads; ++kv) {
        const int64_t *at = index + b * tokens, length = lengths[b];
        keys.read(k, at, positions, cos, sin, length, kv_heads, kv, width, 1.0f, true);
        values.read(v, at, positions, nullptr, nullptr, length, kv_heads, kv, width, 1.0f, true);
        dkeys.clear(length, width);
        dvalues.clear(length, width);
        for (int64_t h = kv * shared; h < (kv + 1) * shared; ++h) {
          queries.read(q, at, positions, cos, sin, length, heads, h, width, factor, false);
          grads.read(upstream, at, positions, nullptr, nullptr, length, heads, h, width, 1.0f, false);
          dqueries.clear(length, width);
          for (int64_t t = 0; t < length; ++t) {
            Seen seen{own ? stem[b * tokens + t] : 0, own ? own[b * tokens + t] : 0, t};
            float *weights = held.data(), *row = back.data(), dot = 0;
            const float *one = queries.rows.data() + t * width, *grad = grads.rows.data() + t * width;
            seen.ranges([&](int64_t from, int64_t to) {
              against(one, keys.columns.data(), weights, from, to, length, width);
              against(grad, values.columns.data(), row, from, to, length, width);
            });
            weigh(weights, seen);
            seen.ranges([&](int64_t from, int64_t to) {
#pragma omp simd reduction(+ : dot)
              for (int64_t j = from; j < to; ++j) dot += weights[j] * row[j];
            });
            seen.ranges([&](int64_t from, int64_t to) {
              for (int64_t j = from; j < to; ++j) {
                float score = weights[j] * (row[j] - dot);
                add(dqueries.rows.data() + t * width, keys.rows.data() + j * width, score, width);
                add(dkeys.rows.data() + j * width, one, score, width);
                add(dvalues.rows.data() + j * width, grad, weights[j], width);
              }
            });
          }
          dqueries.write(dq, at, positions, cos, sin, length, heads, h, width, factor);
        }
        dkeys.write(dk, at, positions, cos, sin, length, kv_heads, kv, width, 1.0f);
        dvalues.write(dv, at, positions, nullptr, nullptr, length, kv_heads, kv, width, 1.0f);
      }
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
#define P(T)                                                                                              \
  (const T *q, const T *k, const T *v, T *out, const int64_t *index, const int64_t *lengths, const int32_t *own, \
   const int32_t *stem, const int64_t *positions, const float *cos, const float *sin, int64_t batch, int64_t tokens, \
   int64_t heads, int64_t kv_heads, int64_t width, float factor)
BOTH(attend_short, P, q, k, v, out, index, lengths, own, stem, positions, cos, sin, batch, tokens, heads, kv_heads,
     width, factor)
#undef P
#define P(T)                                                                                                \
  (const T *q, const T *k, const T *v, const T *upstream, T *dq, T *dk, T *dv, const int64_t *index,        \
   const int64_t *lengths, const int32_t *own, const int32_t *stem, const int64_t *positions, const float *cos, \
   const float *sin, int64_t batch, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width, float factor)
BOTH(attend_short_backward, P, q, k, v, upstream, dq, dk, dv, index, lengths, own, stem, positions, cos, sin, batch,
     tokens, heads, kv_heads, width, factor)
#undef P
