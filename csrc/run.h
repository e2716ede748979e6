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

enum class Element { float32, float64 };

const Kernels& kernels_of(Element element);
void forward(const Call& call, const Problem::Forward& work, Element element, int threads);
void backward(const Call& call, Gradients gradients, const Problem::Backward& work, Element element, int threads);
void inspect(const Call& call, const Inspection& wanted, const Problem::Backward& work, Element element, int threads);

}  // namespace regard
