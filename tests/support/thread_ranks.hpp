#pragma once
// Ranks that are threads of one process, for tests: the memory of all is the host's, so a message is a copy.

#include <mtpx/comm/group.hpp>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace mtpx::test {

/// Where the threads of a group meet. A rank that throws wakes the others, which throw CommError.
class ThreadWires {
  struct Posted {
    const void* from = nullptr;
    std::size_t bytes = 0;
  };

 public:
  explicit ThreadWires(int size) : size_(size), posted_(static_cast<std::size_t>(size)) {}

  /// One rank's end.
  class Wire {
   public:
    Wire(ThreadWires& of, int rank) : of_(of), rank_(rank) {}
    int rank() const { return rank_; }
    int size() const { return of_.size_; }

    template <HostMemory D>
    void all_to_all(const D&, const void* from, void* to, std::size_t bytes) {
      meet({from, bytes}, [&](const Posted& theirs, int peer) {
        copy(to, peer, static_cast<const std::byte*>(theirs.from) + static_cast<std::size_t>(rank_) * bytes,
             bytes);
      });
    }
    template <HostMemory D>
    void all_gather(const D&, const void* from, void* to, std::size_t bytes) {
      meet({from, bytes}, [&](const Posted& theirs, int peer) { copy(to, peer, theirs.from, bytes); });
    }
    /// Between pairs: other ranks need not come here, nor as often.
    template <HostMemory D>
    void send_receive(const D&, std::span<const Transfer> transfers) {
      for (const Transfer& one : transfers) {
        if (one.sends) of_.post(rank_, one.peer, {one.from, one.bytes});
      }
      for (const Transfer& one : transfers) {
        if (!one.sends) of_.take(one.peer, rank_, one.to, one.bytes);
      }
      for (const Transfer& one : transfers) {
        if (one.sends) of_.wait_until_taken(rank_, one.peer);
      }
    }
    template <HostMemory D>
    void barrier(const D&) {
      meet({nullptr, 0}, [](const Posted&, int) {});
    }
    template <HostMemory D>
    void check(const D&) {
      const std::lock_guard lock(of_.mutex_);
      if (of_.broken_) throw CommError("[threads] another rank is gone");
    }

   private:
    friend class ThreadWires;
    static void copy(void* to, int part, const void* from, std::size_t bytes) {
      void* const place = static_cast<std::byte*>(to) + static_cast<std::size_t>(part) * bytes;
      if (bytes > 0 && place != from) std::memcpy(place, from, bytes);
    }
    /// All post, all read, all go on.
    template <typename Read>
    void meet(const Posted& mine, const Read& read) {
      of_.posted_[static_cast<std::size_t>(rank_)] = mine;
      of_.wait();
      for (int peer = 0; peer < of_.size_; ++peer) {
        const Posted& theirs = of_.posted_[static_cast<std::size_t>(peer)];
        if (theirs.bytes != mine.bytes) throw CommError("[threads] ranks call with other sizes");
        read(theirs, peer);
      }
      of_.wait();
    }

    ThreadWires& of_;
    int rank_;
  };

  /// A rank is gone: whoever waits for it stops.
  void leave() {
    const std::lock_guard lock(mutex_);
    broken_ = true;
    changed_.notify_all();
  }

 private:
  /// A message stands where it is until its receiver has copied it.
  void post(int from, int to, const Posted& message) {
    const std::lock_guard lock(mutex_);
    mail_[{from, to}].push_back(message);
    changed_.notify_all();
  }
  void take(int from, int to, void* place, std::size_t bytes) {
    std::unique_lock lock(mutex_);
    std::deque<Posted>& box = mail_[{from, to}];
    changed_.wait(lock, [&] { return !box.empty() || broken_; });
    if (box.empty()) throw CommError("[threads] another rank is gone");
    if (box.front().bytes != bytes) throw CommError("[threads] two sides name other sizes");
    if (bytes > 0) std::memcpy(place, box.front().from, bytes);
    box.pop_front();
    changed_.notify_all();
  }
  void wait_until_taken(int from, int to) {
    std::unique_lock lock(mutex_);
    std::deque<Posted>& box = mail_[{from, to}];
    changed_.wait(lock, [&] { return box.empty() || broken_; });
    if (!box.empty()) throw CommError("[threads] another rank is gone");
  }

  void wait() {
    std::unique_lock lock(mutex_);
    const int round = round_;
    if (++here_ == size_) {
      here_ = 0;
      ++round_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return round_ != round || broken_; });
    if (round_ == round) throw CommError("[threads] another rank is gone");
  }

  int size_;
  std::vector<Posted> posted_;
  std::map<std::pair<int, int>, std::deque<Posted>> mail_;  // of each pair, in order
  std::mutex mutex_;
  std::condition_variable changed_;
  int here_ = 0, round_ = 0;
  bool broken_ = false;
};

/// Runs work(Group<D>) once for each of `size` ranks, a thread each, on a device that make() gives; the first
/// exception that is no consequence of another one comes out.
template <typename Make, typename Work>
void on_ranks(int size, const Make& make, const Work& work) {
  using D = std::remove_cvref_t<decltype(make())>;
  ThreadWires wires(size);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        work(Group<D>(make(), std::make_shared<ThreadWires::Wire>(wires, rank)));
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
        wires.leave();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::exception_ptr consequence;
  for (const std::exception_ptr& error : errors) {
    if (!error) continue;
    try {
      std::rethrow_exception(error);
    } catch (const CommError&) {
      if (!consequence) consequence = error;
    }
  }
  if (consequence) std::rethrow_exception(consequence);
}

}  // namespace mtpx::test
