"""Times steps of TRL's GRPOTrainer with transformers' own generation. A step runs from one call of the reward function to the next.

python -m bench.peers.trl_step '<JSON of a Work>'

Nothing is downloaded: weights are random, and a token is a word.
"""

import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from bench.peers.work import Clock, Seen, Work, finish, told

PAD, END = 0, 1


def main() -> None:
    """Does the steps and prints their seconds."""
    work, clock, responses, prompts = told(), Clock(), [], []
    torch.set_num_threads(work.cores)

    def even_share(completion_ids: list[list[int]], **_) -> list[float]:
        clock.mark()
        responses.extend(map(len, completion_ids))
        return [sum(token % 2 == 0 for token in tokens) / len(tokens) for tokens in completion_ids]

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(work, Path(folder), even_share)
        trainer.ref_model.register_forward_pre_hook(
            lambda _, __, inputs: prompts.append(inputs["input_ids"].shape[1] - work.response_length), with_kwargs=True
        )
        start = [tensor.detach().clone() for tensor in trainer.model.parameters()]
        trainer.train()
    seen = Seen(
        parameters=sum(tensor.numel() for tensor in start),
        dtype="/".join({str(tensor.dtype).removeprefix("torch.") for tensor in start}),
        prompts=prompts,
        responses=responses,
        kl=[entry["kl"] for entry in trainer.state.log_history if "kl" in entry],
        moved=changes(start, trainer.model),
        reference_moved=changes(start, trainer.ref_model),
    )
    names = ("trl", "transformers", "torch", "accelerate")
    finish(work, clock, seen, {"python": platform.python_version()} | {name: version(name) for name in names})


def make_trainer(work: Work, folder: Path, reward) -> GRPOTrainer:
    """Builds the trainer. The model goes through `folder`, which is where it reads its reference from."""
    model = folder / "model"
    Qwen2ForCausalLM(model_config(work)).save_pretrained(model)
    options = GRPOConfig(
        output_dir=str(folder / "out"),
        max_steps=work.steps,
        per_device_train_batch_size=work.rows,
        num_generations=work.group,
        max_completion_length=work.response_length,
        generation_kwargs={"min_new_tokens": work.response_length},  # the end token waits until then
        num_iterations=1,
        beta=work.kl_coef,
        learning_rate=work.learning_rate,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        model_init_kwargs={"dtype": "float32"},
        dataloader_pin_memory=False,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    data = Dataset.from_dict({"prompt": draw_prompts(work)})
    return GRPOTrainer(model=str(model), reward_funcs=reward, args=options, train_dataset=data, processing_class=make_tokenizer(work))


def model_config(work: Work) -> Qwen2Config:
    """Spells the sizes of the model in transformers' words."""
    return Qwen2Config(
        vocab_size=work.vocab_size,
        hidden_size=work.d_model,
        intermediate_size=work.d_ff,
        num_hidden_layers=work.num_layers,
        num_attention_heads=work.num_heads,
        num_key_value_heads=work.num_kv_heads,
        head_dim=work.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": work.rope_theta},
        rms_norm_eps=work.norm_eps,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
    )


def make_tokenizer(work: Work) -> PreTrainedTokenizerFast:
    """Makes a tokenizer whose tokens are words w2, w3 and so on, after the pad and the end token."""
    vocabulary = {"<pad>": PAD, "<end>": END} | {f"w{token}": token for token in range(END + 1, work.vocab_size)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", padding_side="left")


def draw_prompts(work: Work) -> list[str]:
    """Draws other prompts for every step."""
    tokens = np.random.default_rng(0).integers(END + 1, work.vocab_size, (work.prompts * work.steps, work.prompt_length))
    return [" ".join(f"w{token}" for token in row) for row in tokens]


def changes(before: list[torch.Tensor], after: torch.nn.Module) -> list[float]:
    """Returns the largest change of each tensor of parameters."""
    return [float((new.detach() - old).abs().max()) for old, new in zip(before, after.parameters(), strict=True)]


if __name__ == "__main__":
    main()
