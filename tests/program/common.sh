# shellcheck shell=bash
# What the tests of the program share: a work folder, a small configuration, a text, and expect. Sourced by them; the
# program is their first argument, the device to run it on (default: what the program chooses) the second.
mtpx=$1
device=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
if [[ -n $device ]]; then
  # `report`, `tokenize`, `convert` and `quantize` compute nothing, and know no device.
  printf '#!/bin/sh\ncase "$1" in report | tokenize | convert | quantize) exec "%s" "$@" ;; esac\nexec "%s" "$@" --device %s\n' \
    "$(realpath "$1")" "$(realpath "$1")" "$device" >"$work/mtpx"
  chmod +x "$work/mtpx"
  mtpx=$work/mtpx
  status=0
  "$mtpx" generate --model "$work" --prompt x 2>"$work/stderr" || status=$?
  if [[ $status == 7 ]]; then
    echo "skipped: $(cat "$work/stderr")"
    exit 77
  fi
fi

fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

# expect CODE "whole text on standard error" ARGUMENTS...
expect() {
  local code=$1 text=$2 status=0
  shift 2
  "$mtpx" "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || status=$?
  [[ $status == "$code" ]] || fail "mtpx $*: exit code $status instead of $code"
  [[ $(cat "$work/stderr") == "$text" ]] || fail "mtpx $*: said '$(cat "$work/stderr")' instead of '$text'"
}

cat >"$work/config.json" <<'JSON'
{"model_type": "deepseek_v3", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64,
 "moe_intermediate_size": 16, "num_hidden_layers": 2, "num_nextn_predict_layers": 2, "num_attention_heads": 2,
 "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
 "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
 "routed_scaling_factor": 1.0, "norm_topk_prob": true, "first_k_dense_replace": 1, "rms_norm_eps": 1e-6,
 "rope_theta": 10000.0, "max_position_embeddings": 128}
JSON
for ((i = 0; i < 200; ++i)); do echo "the quick brown fox number $i jumps over the lazy dog"; done >"$work/text.txt"
