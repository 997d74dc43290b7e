"""`python -m taskvec` is the console command."""

from taskvec.cli import main

if __name__ == "__main__":
    main()
