"""Post-training (paper 4): dialogs, supervised finetuning."""
