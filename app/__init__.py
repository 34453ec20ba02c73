"""The rating app: Streamlit pages, the HTTP interface beside them, and the viewer."""
