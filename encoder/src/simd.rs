//! The vector instructions of this processor behind one small trait. All unsafe code of the crate is here.
//!
//! A lane holds one output channel, and no sum goes across lanes. So each result is the same chain of additions whatever the
//! number of lanes, and all kernels that fuse multiplication and addition give the same bits.

#![expect(
    unsafe_code,
    reason = "vector instructions are unsafe where the processor may lack them; a kernel proves that it does not"
)]

/// Work written once for all kernels. `run` must be `#[inline(always)]`, so that it is compiled with their instructions.
pub(crate) trait Task {
    /// Sums are kept for `V` vectors of channels of up to `WIDE` pixels, which is as many as there are registers for; `MIDDLE`
    /// and `NARROW` pixels fit rows of 8 and 9 better.
    fn run<S: Simd, const V: usize, const WIDE: usize, const MIDDLE: usize, const NARROW: usize>(self, simd: S);
}

/// What a convolution needs of a processor.
pub(crate) trait Simd: Copy {
    /// Numbers in a vector.
    const LANES: usize;
    /// `LANES` numbers.
    type Vector: Copy;
    /// The same number in each lane.
    fn splat(self, value: f32) -> Self::Vector;
    /// The first numbers of a slice, which must have as many.
    fn load(self, from: &[f32]) -> Self::Vector;
    /// Over the first numbers of a slice, which must have as many.
    fn store(self, vector: Self::Vector, to: &mut [f32]);
    /// `a · b + c`.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `a + b`.
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger one, lane by lane.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
}

/// How the network is computed on a processor.
#[derive(Debug, Clone, Copy)]
pub struct Kernel(Instructions);

#[derive(Debug, Clone, Copy)]
enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    Sse2(x86::Sse2),
    #[cfg(target_arch = "aarch64")]
    Neon(arm::Neon),
    Portable(Portable),
}

impl Kernel {
    /// The fastest one that this processor can run.
    pub fn best() -> Self {
        Self::all().next().unwrap_or(Self(Instructions::Portable(Portable)))
    }

    /// All that this processor can run, the fastest first.
    pub fn all() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            x86::Avx512::here().map(Instructions::Avx512),
            #[cfg(target_arch = "x86_64")]
            x86::Avx2::here().map(Instructions::Avx2),
            #[cfg(target_arch = "x86_64")]
            x86::Sse2::here().map(Instructions::Sse2),
            #[cfg(target_arch = "aarch64")]
            arm::Neon::here().map(Instructions::Neon),
            Some(Instructions::Portable(Portable)),
        ]
        .into_iter()
        .flatten()
        .map(Self)
    }

    /// Its name: of the instructions it uses.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Instructions::Sse2(_) => "sse2",
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(_) => "neon",
            Instructions::Portable(_) => "portable",
        }
    }

    /// Whether it rounds a product and a sum at once. All kernels that do give the same bits.
    pub fn is_fused(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) | Instructions::Avx2(_) => true,
            #[cfg(target_arch = "x86_64")]
            Instructions::Sse2(_) => false,
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(_) => true,
            Instructions::Portable(_) => false,
        }
    }

    /// Output channels that are computed together: weights are packed in groups of so many.
    pub(crate) fn channels(self) -> usize {
        struct Width<'a>(&'a mut usize);
        impl Task for Width<'_> {
            #[inline(always)]
            fn run<S: Simd, const V: usize, const WIDE: usize, const MIDDLE: usize, const NARROW: usize>(self, _: S) {
                *self.0 = V * S::LANES;
            }
        }
        let mut width = 0;
        self.run(Width(&mut width));
        width
    }

    pub(crate) fn run(self, task: impl Task) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(simd) => simd.run(task),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(simd) => simd.run(task),
            #[cfg(target_arch = "x86_64")]
            Instructions::Sse2(simd) => simd.run(task),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(simd) => simd.run(task),
            Instructions::Portable(simd) => task.run::<_, 2, 4, 2, 1>(simd),
        }
    }
}

/// Four lanes of plain arithmetic, which the compiler maps to what each processor of the architecture has.
#[derive(Debug, Clone, Copy)]
struct Portable;

impl Simd for Portable {
    const LANES: usize = 4;
    type Vector = [f32; 4];

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; 4] {
        [value; 4]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> [f32; 4] {
        [from[0], from[1], from[2], from[3]]
    }

    #[inline(always)]
    fn store(self, vector: [f32; 4], to: &mut [f32]) {
        to[..4].copy_from_slice(&vector);
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
}

/// A kernel whose value exists only where its instructions were found, which is why its methods are safe.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! kernel {
    ($name:ident, $features:literal, $found:expr, $lanes:literal, $vector:ty, [$($tiles:literal),*],
     $splat:ident, $load:ident, $store:ident, |$a:ident, $b:ident, $c:ident| $mul_add:expr, $add:ident, $max:ident) => {
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name(());

        impl $name {
            pub(super) fn here() -> Option<Self> {
                $found.then_some(Self(()))
            }

            pub(super) fn run(self, task: impl Task) {
                #[target_feature(enable = $features)]
                fn inside<T: Task>(simd: $name, task: T) {
                    task.run::<$name, $($tiles),*>(simd);
                }
                // SAFETY: `self` proves that the processor has the features.
                unsafe { inside(self, task) }
            }
        }

        impl Simd for $name {
            const LANES: usize = $lanes;
            type Vector = $vector;

            #[inline(always)]
            fn splat(self, value: f32) -> $vector {
                // SAFETY: `self` proves that the processor has the instruction.
                unsafe { $splat(value) }
            }

            #[inline(always)]
            fn load(self, from: &[f32]) -> $vector {
                let from = &from[..$lanes];
                // SAFETY: `self` proves that the processor has the instruction, and the slice is as long as a vector.
                unsafe { $load(from.as_ptr()) }
            }

            #[inline(always)]
            fn store(self, vector: $vector, to: &mut [f32]) {
                let to = &mut to[..$lanes];
                // SAFETY: as for `load`.
                unsafe { $store(to.as_mut_ptr(), vector) }
            }

            #[inline(always)]
            fn mul_add(self, $a: $vector, $b: $vector, $c: $vector) -> $vector {
                // SAFETY: `self` proves that the processor has the instruction.
                unsafe { $mul_add }
            }

            #[inline(always)]
            fn add(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: `self` proves that the processor has the instruction.
                unsafe { $add(a, b) }
            }

            #[inline(always)]
            fn max(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: `self` proves that the processor has the instruction.
                unsafe { $max(a, b) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::is_x86_feature_detected;
    use std::arch::x86_64::{
        __m128, __m256, __m512, _mm_add_ps, _mm_loadu_ps, _mm_max_ps, _mm_mul_ps, _mm_set1_ps, _mm_storeu_ps,
        _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_set1_ps, _mm256_storeu_ps,
        _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_max_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };

    use super::{Simd, Task};

    // 32 registers: 24 sums, 2 vectors of weights.
    kernel!(
        Avx512,
        "avx512f",
        is_x86_feature_detected!("avx512f"),
        16,
        __m512,
        [2, 12, 9, 8],
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        |a, b, c| _mm512_fmadd_ps(a, b, c),
        _mm512_add_ps,
        _mm512_max_ps
    );
    // 16 registers: 12 sums, 2 vectors of weights.
    kernel!(
        Avx2,
        "avx2,fma",
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        8,
        __m256,
        [2, 6, 4, 3],
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        |a, b, c| _mm256_fmadd_ps(a, b, c),
        _mm256_add_ps,
        _mm256_max_ps
    );
    // Every processor of this architecture has it: 16 registers, of which a product needs one.
    kernel!(
        Sse2,
        "sse2",
        is_x86_feature_detected!("sse2"),
        4,
        __m128,
        [2, 6, 4, 3],
        _mm_set1_ps,
        _mm_loadu_ps,
        _mm_storeu_ps,
        |a, b, c| _mm_add_ps(_mm_mul_ps(a, b), c),
        _mm_add_ps,
        _mm_max_ps
    );
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::{float32x4_t, vaddq_f32, vdupq_n_f32, vfmaq_f32, vld1q_f32, vmaxq_f32, vst1q_f32};
    use std::arch::is_aarch64_feature_detected;

    use super::{Simd, Task};

    // 32 registers: 24 sums, 4 vectors of weights.
    kernel!(
        Neon,
        "neon",
        is_aarch64_feature_detected!("neon"),
        4,
        float32x4_t,
        [4, 6, 4, 3],
        vdupq_n_f32,
        vld1q_f32,
        vst1q_f32,
        |a, b, c| vfmaq_f32(c, a, b),
        vaddq_f32,
        vmaxq_f32
    );
}
