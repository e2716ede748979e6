// What XLA calls in a compiled program of JAX: a handler that hands the addresses of all arrays to Python, where plans are
// kept and made. Beside the interpreter's lock this costs some microseconds; the kernel gives the lock up while it computes.
#include "module.h"

#include <nanobind/stl/string.h>

#include <string>
#include <string_view>

#include "xla/ffi/api/ffi.h"

namespace nb = nanobind;
namespace ffi = xla::ffi;
using namespace nb::literals;

namespace regard {

namespace {

// `serve(call, arrays, results)`, arrays and results as (address, XLA's number of their type, shape). Lives as long as the process.
PyObject* serve = nullptr;

nb::tuple described(const ffi::AnyBuffer& buffer) {
    const auto sizes = buffer.dimensions();
    nb::object shape = nb::steal(PyTuple_New(Py_ssize_t(sizes.size())));
    for (size_t axis = 0; axis < sizes.size(); ++axis) PyTuple_SET_ITEM(shape.ptr(), Py_ssize_t(axis), PyLong_FromLongLong(sizes[axis]));
    return nb::make_tuple(reinterpret_cast<uintptr_t>(buffer.untyped_data()), int(buffer.element_type()), shape);
}

ffi::Error passed_on(ffi::RemainingArgs arguments, ffi::RemainingRets results, std::string_view call) {
    const nb::gil_scoped_acquire lock;
    try {
        nb::list given, wanted;
        for (size_t number = 0; number < arguments.size(); ++number) given.append(described(arguments.get<ffi::AnyBuffer>(number).value()));
        for (size_t number = 0; number < results.size(); ++number) wanted.append(described(*results.get<ffi::AnyBuffer>(number).value()));
        nb::borrow<nb::callable>(serve)(nb::str(call.data(), call.size()), given, wanted);
        return ffi::Error::Success();
    } catch (nb::python_error& error) {
        return ffi::Error::InvalidArgument(nb::cast<std::string>(nb::str(error.value())));
    } catch (const std::exception& error) {
        return ffi::Error::Internal(error.what());
    }
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(regard_xla, passed_on, ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attr<std::string_view>("call"));

}  // namespace

void add_xla(nb::module_& module) {
    module.def(
        "xla_handler",
        [](nb::callable function) {
            serve = function.inc_ref().ptr();
            return nb::capsule(reinterpret_cast<void*>(regard_xla), "xla._CUSTOM_CALL_TARGET");
        },
        "serve"_a, "The handler that XLA calls, as JAX registers it; it calls `serve(call, arrays, results)`.");
}

}  // namespace regard
