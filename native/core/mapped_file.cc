#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace spkv {
namespace {

class Mapping : public Storage {
 public:
  Mapping(void* base, int64_t skip, int64_t size) : base_(base), length_(static_cast<size_t>(skip + size)) {
    data = static_cast<char*>(base) + skip;
    bytes = size;
    read_only = true;
  }
  ~Mapping() override { munmap(base_, length_); }

 private:
  void* base_;
  size_t length_;
};

class Copied : public Storage {
 public:
  Copied(const void* source, int64_t size) {
    data = malloc(static_cast<size_t>(size > 0 ? size : 1));
    if (data) memcpy(data, source, static_cast<size_t>(size));
    bytes = size;
    read_only = true;  // as a mapping is
  }
  ~Copied() override { free(data); }
};

class Empty : public Storage {
 public:
  Empty() { data = &byte_; }

 private:
  char byte_ = 0;
};

}  // namespace

std::shared_ptr<Storage> map_file(const char* path, int64_t offset, int64_t bytes, int64_t alignment,
                                  Status* status) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    *status = fail(Code::kFile, "Could not open %s: %s", path, strerror(errno));
    return nullptr;
  }
  struct stat info;
  if (fstat(file, &info) != 0 || offset < 0 || bytes < 0 || info.st_size < offset ||
      info.st_size - offset < bytes) {
    close(file);
    *status = fail(Code::kFile, "%s ends before byte %lld", path, static_cast<long long>(offset + bytes));
    return nullptr;
  }
  if (bytes == 0) {
    close(file);
    return std::make_shared<Empty>();
  }
  int64_t page = sysconf(_SC_PAGESIZE);
  int64_t skip = offset % page;
  void* base = mmap(nullptr, static_cast<size_t>(skip + bytes), PROT_READ, MAP_PRIVATE, file, offset - skip);
  close(file);
  if (base == MAP_FAILED) {
    *status = fail(Code::kFile, "Could not map %s: %s", path, strerror(errno));
    return nullptr;
  }
  auto mapping = std::make_shared<Mapping>(base, skip, bytes);
  if (offset % alignment == 0) return mapping;
  auto copy = std::make_shared<Copied>(mapping->data, bytes);
  if (copy->data) return copy;
  *status = fail(Code::kOutOfMemory, "Could not allocate %lld bytes", static_cast<long long>(bytes));
  return nullptr;
}

}  // namespace spkv
