from multiprocessing.reduction import *
from multiprocessing.reduction import AbstractReducer as AbstractReducer
