"""The 256 special tokens of Llama 3, in the order of their ids, after all others (paper 3.2; Meta's released tokenizer)."""

BEGIN_OF_TEXT = "<|begin_of_text|>"  # before every document and dialog
END_OF_TEXT = "<|end_of_text|>"  # after every document of pre-training
PAD = "<|finetune_right_pad_id|>"
STEP = "<|step_id|>"  # reserved_special_token_2 in Llama 3.1's first release
START_HEADER = "<|start_header_id|>"  # a message's role stands between these two
END_HEADER = "<|end_header_id|>"
END_OF_MESSAGE = "<|eom_id|>"  # the message ends, the turn goes on: a tool is called
END_OF_TURN = "<|eot_id|>"  # the other side's turn
PYTHON_TAG = "<|python_tag|>"  # a tool call or code follows
IMAGE = "<|image|>"  # of the vision models

_NAMED = [
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    PAD,
    STEP,
    START_HEADER,
    END_HEADER,
    END_OF_MESSAGE,
    END_OF_TURN,
    PYTHON_TAG,
    IMAGE,
]
N_SPECIAL = 256
SPECIAL_TOKENS = (*_NAMED, *(f"<|reserved_special_token_{i}|>" for i in range(2, N_SPECIAL - len(_NAMED) + 2)))

# Generation ends at any of these.
STOP_TOKENS = (END_OF_TEXT, END_OF_MESSAGE, END_OF_TURN)
