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

namespace outstep::memory {

namespace {

// Blocks smaller than this go straight to malloc, which keeps them well itself.
constexpr size_t kSmallestKept = 64 * 1024;

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
      void* data = c10::alloc_cpu(num_bytes);
      count(static_cast<int64_t>(malloc_usable_size(data)));
      return data;
    }
    const size_t size = size_class(num_bytes);
    void* data = reuse(size);
    if (!data) data = c10::alloc_cpu(size);
    {
      std::lock_guard lock(mutex_);
      blocks_[data] = {num_bytes, size};
    }
    count(static_cast<int64_t>(num_bytes));
    return data;
  }

  void* reuse(size_t size) {
    std::lock_guard lock(mutex_);
    auto found = kept_.find(size);
    if (found == kept_.end() || found->second.empty()) return nullptr;
    void* data = found->second.back();
    found->second.pop_back();
    kept_bytes_ -= static_cast<int64_t>(size);
    return data;
  }

  void count(int64_t num_bytes) {
    const int64_t now = live.fetch_add(num_bytes) + num_bytes;
    int64_t seen = peak.load();
    while (now > seen && !peak.compare_exchange_weak(seen, now)) {
    }
  }

  static void give_back(void* data);

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
  {
    std::lock_guard lock(self.mutex_);
    if (auto found = self.blocks_.find(data); found != self.blocks_.end()) {
      const Block block = found->second;
      self.blocks_.erase(found);
      self.live.fetch_sub(static_cast<int64_t>(block.requested));
      // What is kept never exceeds what was once live: blocks of shapes that do not come back
      // cannot pile up.
      if (self.kept_bytes_ + static_cast<int64_t>(block.size) <= self.peak) {
        self.kept_[block.size].push_back(data);
        self.kept_bytes_ += static_cast<int64_t>(block.size);
        return;
      }
      c10::free_cpu(data);
      return;
    }
  }
  self.live.fetch_sub(static_cast<int64_t>(malloc_usable_size(data)));
  c10::free_cpu(data);
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
