#include "outstep/base/memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <malloc.h>

#include <atomic>
#include <bit>
#include <fstream>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#if defined(__has_include) && __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>
#endif

namespace outstep::memory {

namespace {

// Blocks smaller than this go straight to malloc, which keeps them well itself.
constexpr size_t kSmallestKept = 64 * 1024;

// Lets the address sanitizer report a use of a block that is kept for reuse as a use after free.
#if defined(__SANITIZE_ADDRESS__)
#define OUTSTEP_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define OUTSTEP_ADDRESS_SANITIZER 1
#endif
#endif
#ifdef OUTSTEP_ADDRESS_SANITIZER
void forbid(void* block, size_t size) { __asan_poison_memory_region(block, size); }
void allow(void* block, size_t size) { __asan_unpoison_memory_region(block, size); }
#else
void forbid(void* /*block*/, size_t /*size*/) {}
void allow(void* /*block*/, size_t /*size*/) {}
#endif

// Rounds to one of eight sizes per power of two, so that a freed block fits the next request of
// about its size.
size_t size_class(size_t num_bytes) {
  const size_t step = std::bit_floor(num_bytes) / 8;
  return (num_bytes + step - 1) / step * step;
}

class KeepingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t num_bytes) override {
    void* data = num_bytes == 0 ? nullptr : take(num_bytes);
    return {data, data, &KeepingAllocator::give_back, at::Device(at::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &KeepingAllocator::give_back; }
  void copy_data(void* to, const void* from, size_t count) const override {
    default_copy_data(to, from, count);
  }

  int64_t release() {
    std::lock_guard lock(mutex_);
    int64_t released = 0;
    for (auto& [size, blocks] : kept_) {
      for (void* block : blocks) {
        released += static_cast<int64_t>(size);
        allow(block, size);
        c10::free_cpu(block);
      }
    }
    kept_.clear();
    kept_bytes_ = 0;
    return released;
  }

  std::atomic<int64_t> live{0};
  std::atomic<int64_t> peak{0};

 private:
  // A block of the kept kind: what was asked for counts as live, its size class decides who may
  // reuse it.
  struct Block {
    size_t requested;
    size_t size;
  };

  void* take(size_t num_bytes) {
    if (num_bytes < kSmallestKept) {
      void* data = allocate_new(num_bytes);
      count(static_cast<int64_t>(malloc_usable_size(data)));
      return data;
    }
    const Block block{num_bytes, size_class(num_bytes)};
    void* data = reuse(block);
    if (!data) {
      data = allocate_new(block.size);
      std::lock_guard lock(mutex_);
      blocks_[data] = block;
    }
    count(static_cast<int64_t>(num_bytes));
    return data;
  }

  // From the system; what is kept goes back before an allocation is given up.
  void* allocate_new(size_t num_bytes) {
    try {
      return c10::alloc_cpu(num_bytes);
    } catch (const c10::Error&) {
      if (release() == 0) throw;
      return c10::alloc_cpu(num_bytes);
    }
  }

  // A kept block of this size, now live; null if there is none.
  void* reuse(const Block& block) {
    std::lock_guard lock(mutex_);
    auto found = kept_.find(block.size);
    if (found == kept_.end() || found->second.empty()) return nullptr;
    void* data = found->second.back();
    found->second.pop_back();
    kept_bytes_ -= static_cast<int64_t>(block.size);
    blocks_[data] = block;
    allow(data, block.size);
    return data;
  }

  void count(int64_t num_bytes) {
    const int64_t now = live.fetch_add(num_bytes) + num_bytes;
    int64_t seen = peak.load();
    while (now > seen && !peak.compare_exchange_weak(seen, now)) {
    }
  }

  static void give_back(void* data);
  // Whether data was a block of the kept kind; if so, it is kept or freed.
  bool give_back_kept_kind(void* data);

  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void*>> kept_;  // by size class; guarded by mutex_
  int64_t kept_bytes_ = 0;                               // guarded by mutex_
  std::unordered_map<void*, Block> blocks_;  // live, of the kept kind; guarded by mutex_
};

// Never destroyed: tensors with static lifetime give their memory back after main has ended.
KeepingAllocator& allocator() {
  static auto* instance = new KeepingAllocator;
  return *instance;
}

void KeepingAllocator::give_back(void* data) {
  if (!data) return;
  KeepingAllocator& self = allocator();
  const size_t usable = malloc_usable_size(data);
  // A block of the kept kind is never smaller than this, so small ones need no lock.
  if (usable >= kSmallestKept && self.give_back_kept_kind(data)) return;
  self.live.fetch_sub(static_cast<int64_t>(usable));
  c10::free_cpu(data);
}

bool KeepingAllocator::give_back_kept_kind(void* data) {
  {
    std::lock_guard lock(mutex_);
    const auto found = blocks_.find(data);
    if (found == blocks_.end()) return false;
    const Block block = found->second;
    blocks_.erase(found);
    live.fetch_sub(static_cast<int64_t>(block.requested));
    // What is kept never exceeds what was once live: blocks of shapes that do not come back cannot
    // pile up.
    if (kept_bytes_ + static_cast<int64_t>(block.size) <= peak) {
      forbid(data, block.size);
      kept_[block.size].push_back(data);
      kept_bytes_ += static_cast<int64_t>(block.size);
      return true;
    }
  }
  c10::free_cpu(data);
  return true;
}

int64_t from_proc_status(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key)) return std::stoll(line.substr(key.size())) * 1024;
  }
  return 0;
}

std::atomic<bool> installed{false};

}  // namespace

void install() {
  if (!installed.exchange(true)) c10::SetCPUAllocator(&allocator(), /*priority=*/1);
}
bool is_installed() { return installed; }

int64_t live_bytes() { return allocator().live; }
int64_t peak_bytes() { return allocator().peak; }
void reset_peak() { allocator().peak = allocator().live.load(); }
int64_t release_kept() { return allocator().release(); }

int64_t rss_bytes() { return from_proc_status("VmRSS:"); }
int64_t peak_rss_bytes() { return from_proc_status("VmHWM:"); }

}  // namespace outstep::memory
