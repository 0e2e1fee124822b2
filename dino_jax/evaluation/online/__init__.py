"""Evaluations while a model is trained, the entries of `config.evaluations`.

One file is one kind of evaluation; build.py has the table of kinds and states what a file must
provide.

kind       needs                                  gives
knn        labelled images                        accuracy of a k-NN classifier
proxies    images                                 effective rank, agreement of two networks
agreement  images                                 neighbors kept since the run started
dense      images                                 whether patches find their place; cosine with cls
"""
