"""Losses of slide-encoder pretraining.

`dino` compares views of a slide, `ibot` tiles that were hidden; `targets` turns what the teacher
gives into what the student learns; `koleo` and `kde` keep embeddings of different slides apart.
All are functions of tensors, in float32 whatever the caller's autocast, and none makes the host
wait for the device on one process. Each gives this rank's share: what its rows add to the loss of
the whole step, so that shares, and their gradients, summed over ranks are those of one process.
"""
