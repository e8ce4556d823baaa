#pragma once
// Text: tokenizers, learning them, and files of text.

#include <mtpx/text/bpe_train.hpp>
#include <mtpx/text/tokenizer.hpp>
#include <mtpx/train/corpus_files.hpp>
#include <mtpx/train/learn_bpe.hpp>
