// bfloat16 and float16 number by number, by the definition of rounding, and arrays of them that lie as others do.
#pragma once

#include "../kernel.h"
#include "arrays.h"

namespace regard::tests {

// Digits of a number, its leading 1 among them, and the exponents of the least normal number and of what is infinite.
struct Digits {
    int count, least, most;
};
inline Digits digits_of(Stored stored) { return stored == Stored::bfloat16 ? Digits{8, -126, 128} : Digits{11, -14, 16}; }

inline double wide(uint16_t bits, Stored stored) {
    const Digits digits = digits_of(stored);
    const int fraction = bits & ((1 << (digits.count - 1)) - 1), exponent = (bits & 0x7FFF) >> (digits.count - 1);
    const double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == digits.most - digits.least + 1)
        return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
    const int unit = std::max(exponent, 1) + digits.least - digits.count;
    return sign * std::ldexp(fraction + (exponent ? 1 << (digits.count - 1) : 0), unit);
}

inline uint16_t narrow(double number, Stored stored) {
    const Digits digits = digits_of(stored);
    const uint16_t sign = std::signbit(number) ? 0x8000 : 0, infinite = uint16_t((digits.most - digits.least + 1) << (digits.count - 1));
    const double size = std::abs(number);
    if (std::isnan(number)) return uint16_t(sign | infinite | 1 << (digits.count - 2));
    int exponent = 0;
    std::frexp(size, &exponent);  // size < 2^exponent
    exponent = std::max(exponent - 1, digits.least);
    const double units = std::nearbyint(std::ldexp(size, digits.count - 1 - exponent));  // ties to even
    const double found = std::ldexp(units, exponent - digits.count + 1);
    if (std::isinf(size) || found >= std::ldexp(1.0, digits.most)) return uint16_t(sign | infinite);
    // A carry into the next exponent is right as it stands.
    return uint16_t(sign | (int(units) + ((exponent - digits.least) << (digits.count - 1))));
}

template <class T>
Array<uint16_t> narrow(const Array<T>& array, Stored stored) {
    Array<uint16_t> found(array.shape, array.strides);
    std::transform(array.begin(), array.end(), found.begin(), [&](T number) { return narrow(double(number), stored); });
    return found;
}

template <class T>
void widen(const Array<uint16_t>& from, Stored stored, const Array<T>& to) {
    std::transform(from.begin(), from.end(), to.begin(), [&](uint16_t bits) { return T(wide(bits, stored)); });
}

}  // namespace regard::tests
