// Whole calls: the problem's units on threads, with the kernel of the chosen instruction set.
#pragma once

#include <string>
#include <vector>

#include "kernel.h"

namespace regard {

// The instruction sets that this machine has, the best first, and the one in use.
std::vector<std::string> instruction_sets();
std::string instruction_set();
// Throws std::invalid_argument for one that this machine lacks.
void use_instruction_set(const std::string& name);
double fma_peak(double seconds);
// The instruction set whose vectors the one in use has: "amx" adds to "avx512" a unit for matrices.
std::string vectors();
// Whether the instruction set in use has quick products of pairs of bfloat16, and of tiles of them.
bool multiplies_pairs();
bool multiplies_tiles();

enum class Element { float32, float64 };

const Kernels& kernels_of(Element element);
// Which units add to the same numbers of a bias's gradient: what the backward pass's work is cut by.
Problem::Chains chains_of(const Call& call, const Gradients& gradients);

// `work` must have been cut for the same kernels.
void forward(const Call& call, const Problem::Forward& work, const Kernels& kernels, int threads);
void backward(const Call& call, Gradients gradients, const Problem::Backward& work, const Kernels& kernels, int threads);
void inspect(const Call& call, const Inspection& wanted, const Problem::Backward& work, const Kernels& kernels, int threads);

}  // namespace regard
