# Fails where LIBRARY holds a vtable or type of namespace gloo: linked with LibTorch's own it would be a second definition.
execute_process(COMMAND "${NM}" -C "${LIBRARY}" OUTPUT_VARIABLE symbols RESULT_VARIABLE status ERROR_QUIET)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "nm ${LIBRARY} failed: ${status}")
endif()
string(REGEX MATCHALL "[^\n]*(vtable|typeinfo|typeinfo name) for (::)?gloo::[^\n]*" found "${symbols}")
if(found)
  message(FATAL_ERROR "symbols of Gloo's are defined or needed:\n${found}")
endif()
