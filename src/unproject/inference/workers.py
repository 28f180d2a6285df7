"""Threads that work on one frame each."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import cv2
import torch


@contextmanager
def one_frame_each(workers: int = 2) -> Iterator[ThreadPoolExecutor]:
    """Worker threads inside which torch and OpenCV start none of their own: those would wait for each other's cores.

    Work that still waits is dropped at the end. OpenCV's setting is global and is put back.
    """
    torch_threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(cv_threads)
        torch.set_num_threads(torch_threads)
