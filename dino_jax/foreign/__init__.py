"""What others made: the one way in for files, JSON, pictures and names from outside.

files.py     regular files only, never more bytes than a reader expects
json_text.py JSON of bounded depth and numbers
yaml_text.py YAML, small and without aliases
pictures.py  raster formats by name, pixels bounded by the header; every failure is one error
quiet_decoders.py  what Pillow and libtiff would write to the terminal
thrift.py    structs of Thrift's compact protocol, such as a Parquet footer
names.py     names of any bytes in text files and on terminals
"""
