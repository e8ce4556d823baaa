#pragma once
// The one place that states the version; CMakeLists.txt reads it from here.

#define MTPX_VERSION_MAJOR 0
#define MTPX_VERSION_MINOR 1
#define MTPX_VERSION_PATCH 0
