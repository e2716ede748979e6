// Whole products in memory, on threads.
#pragma once

#include "products.h"

namespace regard {

// Of the instruction set in use; with `rounds`, of factors rounded to bfloat16.
const ProductFunctions& product_functions(bool rounds);

void compute(const Product& call, const ProductFunctions& functions, int threads);

}  // namespace regard
