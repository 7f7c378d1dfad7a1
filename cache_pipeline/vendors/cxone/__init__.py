"""The Data Extraction API of NICE CXone."""
